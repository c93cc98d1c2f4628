"""The CUDA twin of `nsim.kernels`, for `net.to("cuda")`. `nsim.backend` finds it at run time."""
