"""`python -m slipstream`: the slipstream command."""

from slipstream.cli import main

main()
