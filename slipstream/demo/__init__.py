"""The demonstration: the main job on real input, told as a story that a person can follow.

images.py makes real Debian images, machine.py is a device whose firmware and boot loader are
simulated, story.py runs the slipstream command in the order in which its users would. Nothing
here is imported by the product.
"""
