"""The parts that are compiled, and optional: without a compiler everything works, restarts and commands take longer."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra"]


class Program(Extension):
    """A C program instead of a module, installed beside the modules of its package."""


class BuildPrograms(build_ext):
    """build_ext that can also link programs. Statically where libc allows it, so that they run in any root."""

    def get_ext_filename(self, fullname: str) -> str:
        programs = {each.name: each for each in self.extensions if isinstance(each, Program)}
        for name in (fullname, *(each for each in programs if each.endswith("." + fullname))):
            if name in programs:
                return str(Path(*fullname.split(".")))
        return str(super().get_ext_filename(fullname))

    def build_extension(self, ext: Extension) -> None:
        if not isinstance(ext, Program):
            super().build_extension(ext)
            return
        objects = self.compiler.compile(ext.sources, output_dir=self.build_temp, extra_postargs=ext.extra_compile_args)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        for options in (["-static"], []):
            try:
                self.compiler.link_executable(objects, target.name, output_dir=str(target.parent), extra_postargs=options)
                return
            except LinkError:
                continue
        raise CompileError(f"{ext.name}: can't be linked")


setup(
    cmdclass={"build_ext": BuildPrograms},
    ext_modules=[
        Extension("otpd.supervisor._spawn", sources=["supervisor/_spawn.c"], extra_compile_args=FLAGS, optional=True),
        Program("otpd.agents.sandbox._nest", sources=["agents/sandbox/_nest.c"], extra_compile_args=FLAGS, optional=True),
    ],
)
