"""The network of a Windows node, through the Host Networking Service (HNS).

Never executed on Windows: requests are built after the published schema and Docker's recorded calls, and are
carried out here against a fake HNS and a shim library only. See docs/windows.md.
"""
