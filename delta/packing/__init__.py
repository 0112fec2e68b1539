"""The packing gate: compressed stretches of images, unpacked and packed again byte for byte.

    recipe.py     which packer, which parameters, which library: enough to make the same bytes again
    unpack.py     packed bytes to content, bounded
    pack.py       content to packed bytes, by a recipe
    find.py       the recipe that makes given bytes (build machine)
    headers.py    what gzip, xz and zstd streams say about themselves
    xz_blocks.py  .xz framing that Python's encoder does not write
    libraries.py  which libraries this machine has; liblz4.py, liblzo.py, libzstd.py, gnu_gzip.py
                  call them

A compressor's bytes depend on its version, so a recipe names it exactly, and a device that has
another one cannot use the recipe. docs/adr/0010-packing.md has the measurements.
"""
