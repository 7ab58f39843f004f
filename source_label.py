"""IPTC's DigitalSourceType in a PNG file, where programs look for it: an XMP packet in an iTXt chunk."""

import struct
import zlib
from xml.sax.saxutils import quoteattr

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEYWORD = b"XML:com.adobe.xmp"
_HEADER = len(SIGNATURE) + 25  # bytes to the end of IHDR, which always comes first
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    Iptc4xmpExt:DigitalSourceType={source_type}
    xmp:CreatorTool={tool}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def add(data: bytes, provenance: dict | None) -> bytes:
    """Return a file with the source type that its provenance names; anything but a PNG without XMP as it is."""
    if not provenance or not data.startswith(SIGNATURE) or _KEYWORD in data:
        return data
    tool = f"{provenance['host']} with {provenance['pack']}"
    packet = _PACKET.format(source_type=quoteattr(provenance["digital_source_type"]), tool=quoteattr(tool))
    content = b"iTXt" + _KEYWORD + bytes(5) + packet.encode()  # neither compressed nor in a language
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return data[:_HEADER] + chunk + data[_HEADER:]
