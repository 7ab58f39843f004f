"""Why a weight file could not be had."""


class FetchError(Exception):
    """A file was not fetched or not accepted; the text is for the person at the command line."""


class NotReachedError(FetchError):
    """The server could not be reached at all: the file may have to be carried by hand."""


class RefusedError(FetchError):
    """What came is not the file that was wanted, or not safe to have: there is no use in keeping it."""
