"""Slipstream: over-the-air updates for Linux devices.

`slipstream.delta` is the shared language, `slipstream.installer` the device,
`slipstream.server` the publisher and the fleet's front door. The folders stand at
the top level of the repository; the links beside this file give them one name.
"""

__version__ = "0.1.0"
