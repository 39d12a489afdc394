"""What one GPU does with our kernels, step and runs, in parts that each have their own limit."""
