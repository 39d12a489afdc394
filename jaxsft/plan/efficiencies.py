"""What well-tuned programs reach of the peaks: for estimates, beside bounds that none passes."""

MATMUL_SHARE, MEMORY_SHARE, LINK_SHARE = 0.7, 0.8, 0.7
