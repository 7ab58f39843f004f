"""What developers and first-time visitors run: environment, host, demo. Nothing in the extension imports this."""
