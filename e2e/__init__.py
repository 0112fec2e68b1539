"""End to end on real firmware: QEMU, OVMF, systemd-boot, a Debian 12 guest, the shipped agent.

    make e2e         the subset that every change must pass
    make e2e-full    all cases, and twenty power cuts

    cases.py         what is proved, one function a case: begin here
    story.py         one device and its server, and what can be waited for
    machine.py       QEMU: power, serial console, QMP; guest_agent.py: commands inside
    fleet.py         the repository and `slipstream serve`, on the host
    guest.py         the releases: root file systems, kernels, initrds, UKIs
    disk.py          the guest's disk: partition table, ESP, slots, state
    firmware.py      OVMF with and without Secure Boot, and the owner's keys
    rootfs/, initrd/ files that go into the guest as they stand here

docs/e2e.md says what it proves and what not, what it takes, and how to read what it leaves behind.
No module of the product imports this one.
"""
