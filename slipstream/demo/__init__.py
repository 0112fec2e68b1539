"""The demonstration: the main job on real input, told as a story that a person can follow.

    releases.py   what is published: Debian 12 releases, built once and cached, or any two images
      archives.py   packages and kernels from Debian's archives
      images.py     a tree as ext4 and as squashfs
    story.py      the order of events
      only_one.py   no two in one folder
      fleet.py      publisher and operator: the repository, the server
      owner.py      the device's owner: install, kill, boot, confirm
      machine.py    the device; its firmware and boot loader are simulated
      selftest.py   the device's health command
      commands.py   the slipstream command, run as its user would
      table.py      what it took

Nothing here is imported by the product.
"""
