"""``python -m onsphere``: the command line, where the script is not on the path."""

from onsphere.lab.cli import main

if __name__ == "__main__":
    main()
