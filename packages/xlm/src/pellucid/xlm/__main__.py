"""`python -m pellucid.xlm`: the command `xlm` of the interpreter at hand."""

from pellucid.xlm._app import main

if __name__ == "__main__":
    main()
