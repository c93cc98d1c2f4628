"""Numba's compiler as kernels need it: less work, for code that is as fast.

- Numba makes machine code of each function that a kernel calls. Only the kernel's own is ever called.
- It runs a few of LLVM's passes over each before all of them, to prune reference counts. Kernels have none.
- LLVM unrolls loops. Ours work on whole vectors, and are no faster for it.

To optimise a kernel only once, as a whole, would take a tenth less again, but makes the backward sweep slower by 30 %.

Vectors are as wide as the processor has them. LLVM's own choice on Intel's is half of that; our explicit ones then wait
where they read as a whole what was stored in halves.
"""

import llvmlite.binding
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.typed_passes import NativeLowering

WIDE = '"prefer-vector-width"="512"'


class Kernel(JITCodeLibrary):
    """Code that Python calls."""

    def add_ir_module(self, module):
        for function in module.functions:
            if not function.is_declaration:
                set.add(function.attributes, WIDE)  # the set's own `add` knows no attributes of this kind
        super().add_ir_module(module)

    def _optimize_final_module(self):
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


class Nowhere:
    """In the place of the code generator, which would tell machine code where its environment lies. Functions that need
    one, such as those that print, must not be helpers."""

    @staticmethod
    def set_env(name, environment):
        pass


class Helper(Kernel):
    """Code that kernels link, and nothing calls by itself."""

    codegen = Nowhere

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name):
        return 0


class KernelCompiler(Compiler):
    """Compiles a kernel with all that it calls. Numba has no options for this, so that two functions are replaced
    meanwhile; it compiles in one thread at a time."""

    def compile_extra(self, func):
        lower, make_options = NativeLowering.run_pass, llvmlite.binding.create_pipeline_tuning_options
        self.state.library = Kernel(self.state.targetctx.codegen(), func.__qualname__)
        self.state.library.enable_object_caching()

        def lower_helper(compiler_pass, state):
            # A user's own function is left to Numba: it may print, be kept on disk, or be called by its address.
            ours = state.func_id.modname.partition(".")[0] in ("nsim", "numba")
            if ours and state.flags.no_cpython_wrapper:
                state.library = Helper(state.targetctx.codegen(), state.func_id.func_qualname)
            return lower(compiler_pass, state)

        def without_unrolling(*args):
            options = make_options(*args)
            options.loop_unrolling = False
            return options

        NativeLowering.run_pass, llvmlite.binding.create_pipeline_tuning_options = lower_helper, without_unrolling
        try:
            return super().compile_extra(func)
        finally:
            NativeLowering.run_pass, llvmlite.binding.create_pipeline_tuning_options = lower, make_options
