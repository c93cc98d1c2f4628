"""Vectors in the code of our own intrinsics: numbers of an array from a place on, and one number spread."""

from llvmlite import ir

from nsim.kernels.jit import FASTMATH

FLAGS = tuple(sorted(FASTMATH))
INDEX = ir.IntType(32)


class Numbers:
    """The numbers of a C-contiguous array, as if it were flat."""

    def __init__(self, context, builder, kind, value):
        self.builder = builder
        self.array = context.make_array(kind)(context, builder, value)
        self.element = context.get_value_type(kind.dtype)
        self.size = context.get_abi_sizeof(self.element)  # bytes

    @property
    def width(self):
        """Columns of a matrix."""
        return self.builder.extract_value(self.array.shape, 1)

    def _pointer(self, place, lanes):
        pointer = self.builder.gep(self.array.data, [place])
        return self.builder.bitcast(pointer, ir.VectorType(self.element, lanes).as_pointer())

    def load(self, place, lanes):
        """A vector of `lanes` numbers from a place on; it need not be aligned."""
        vector = self.builder.load(self._pointer(place, lanes))
        vector.align = self.size
        return vector

    def store(self, vector, place):
        self.builder.store(vector, self._pointer(place, vector.type.count)).align = self.size


def spread(builder, number, lanes):
    """A vector of one number."""
    one = builder.insert_element(ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined), number, INDEX(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(INDEX, lanes), [0] * lanes))


def constant(element, numbers):
    return ir.Constant(ir.VectorType(element, len(numbers)), numbers)
