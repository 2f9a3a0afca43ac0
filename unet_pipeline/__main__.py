"""`python -m unet_pipeline`, which is what `torchrun -m unet_pipeline` starts."""

from unet_pipeline.cli import main

if __name__ == "__main__":
    main()
