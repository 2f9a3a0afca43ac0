"""`python -m unet_pipeline`: the `unet` command where it is not on the PATH."""

from unet_pipeline.cli import main

if __name__ == "__main__":
    main()
