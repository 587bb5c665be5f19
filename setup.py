"""The one part that is compiled, and optional: without a compiler everything works, and restarts of programs take longer."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "otpd.supervisor._spawn",
            sources=["supervisor/_spawn.c"],
            extra_compile_args=["-std=gnu11", "-Wall", "-Wextra"],
            optional=True,
        )
    ]
)
