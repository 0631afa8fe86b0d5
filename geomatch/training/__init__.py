"""How `dift-tiny` was made: its images, its denoising training, its projection head."""
