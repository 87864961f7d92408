"""`python -m keras_muse` is the command `keras-muse`."""

import sys

__all__ = []

if __name__ == "__main__":
    from keras_muse.cli import main

    sys.exit(main())
