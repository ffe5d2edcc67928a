"""`python -m fct_fast` is `fct-fast`."""

from fct_fast.cli import main

main()
