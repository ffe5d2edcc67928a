"""The GPU suite: builds, checks and times the CUDA kernels on a machine with a GPU, in stages of minutes.

`python -m benchmarks.gpu` runs what has not passed yet. Needs this repository, torch, CMake, nvcc, pybind11 and pytest.
"""
