"""Sums and dot products over lists of rows of a matrix, in blocks of columns that stay in vector registers.

LLVM vectorises a loop over columns, but keeps its sums in memory between two rows and takes what is left after whole
vectors one number at a time. Here a block of 64 (then 32, 16, ... 1) columns is one vector value: each row is read
once and each sum written once, which halves the time of an event.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nsim.kernels.jit import inlined
from nsim.kernels.vectors import FLAGS, Numbers, constant, spread

WIDEST = 64
DOT = 16  # numbers of one step of a dot product, four of which share the registers of a small processor


class _Matrix(Numbers):
    """A C-contiguous matrix whose rows are loaded and stored by blocks."""

    def place(self, row, c):
        return self.builder.add(self.builder.mul(row, self.width), c)

    def load_row(self, row, c, lanes):
        return self.load(self.place(row, c), lanes)

    def store_row(self, block, row, c):
        self.store(block, self.place(row, c))


class _List:
    """Entries lo to hi of an array of rows, and their values where they have some."""

    def __init__(self, context, builder, kinds, args):
        self.context, self.builder = context, builder
        self.kind, values_kind = kinds[:2]
        rows, values, self.lo, self.hi = args
        self.rows = context.make_array(self.kind)(context, builder, rows)
        graded = isinstance(values_kind, types.Array)
        self.values = context.make_array(values_kind)(context, builder, values) if graded else None
        self.values_kind = values_kind

    def row(self, j):
        """The row that entry j names."""
        entry = self.builder.load(self.builder.gep(self.rows.data, [j]))
        return self.context.cast(self.builder, entry, self.kind.dtype, types.intp)

    def any(self):
        return self.builder.icmp_signed("<", self.lo, self.hi)

    def each(self, body):
        """body(row, value) for every entry; value is None where there are none."""
        builder = self.builder
        with cgutils.for_range_slice(builder, self.lo, self.hi, self.lo.type(1), self.lo.type) as (j, _):
            body(self.row(j), None if self.values is None else builder.load(builder.gep(self.values.data, [j])))

    def scaled(self, block, value, dtype):
        """value * block."""
        if value is None:
            return block
        value = self.context.cast(self.builder, value, self.values_kind.dtype, dtype)
        return self.builder.fmul(spread(self.builder, value, block.type.count), block, flags=FLAGS)


def _over_columns(builder, width, body):
    """body(c, lanes) for blocks that cover `width` columns: as many of the widest as fit, then each smaller one."""
    whole = builder.and_(width, width.type(-WIDEST))
    with cgutils.for_range_slice(builder, width.type(0), whole, width.type(WIDEST), width.type) as (c, _):
        body(c, WIDEST)
    lanes = WIDEST // 2
    while lanes:
        with builder.if_then(cgutils.is_not_null(builder, builder.and_(width, width.type(lanes)))):
            body(builder.and_(width, width.type(-2 * lanes)), lanes)
        lanes //= 2


@intrinsic
def _sum_rows(typingctx, x, t, start, s, weight, rows, values, lo, hi):
    """See `sum_rows`."""

    def codegen(context, builder, signature, args):
        x, start, weight = (_Matrix(context, builder, signature.args[k], args[k]) for k in (0, 2, 4))
        listed = _List(context, builder, signature.args[5:], args[5:])

        def block(c, lanes):
            total = cgutils.alloca_once_value(builder, start.load_row(args[3], c, lanes))  # LLVM makes it a register

            def add(row, value):
                part = listed.scaled(weight.load_row(row, c, lanes), value, signature.args[0].dtype)
                builder.store(builder.fadd(builder.load(total), part, flags=FLAGS), total)

            listed.each(add)
            x.store_row(builder.load(total), args[1], c)

        def copy(c, lanes):
            x.store_row(start.load_row(args[3], c, lanes), args[1], c)

        with builder.if_else(listed.any()) as (some, nothing):
            with some:
                _over_columns(builder, x.width, block)
            with nothing:
                _over_columns(builder, x.width, copy)
        return context.get_dummy_value()

    intp = types.intp
    return types.none(x, intp, start, intp, weight, rows, values, intp, intp), codegen


@intrinsic
def _spread_row(typingctx, grad, x, t, rows, values, lo, hi):
    """See `spread_row`."""

    def codegen(context, builder, signature, args):
        grad, x = (_Matrix(context, builder, signature.args[k], args[k]) for k in (0, 1))
        listed = _List(context, builder, signature.args[3:], args[3:])

        def block(c, lanes):
            source = x.load_row(args[2], c, lanes)

            def add(row, value):
                part = listed.scaled(source, value, signature.args[0].dtype)
                grad.store_row(builder.fadd(grad.load_row(row, c, lanes), part, flags=FLAGS), row, c)

            listed.each(add)

        with builder.if_then(listed.any()):
            _over_columns(builder, x.width, block)
        return context.get_dummy_value()

    return types.none(grad, x, types.intp, rows, values, types.intp, types.intp), codegen


@intrinsic
def _dot_rows(typingctx, out, start, weight, rows, lo, hi, x, t):
    """See `dot_rows`."""

    def codegen(context, builder, signature, args):
        _, start, _, _, lo, hi, _, t = args
        out = Numbers(context, builder, signature.args[0], args[0])
        weight, x = (_Matrix(context, builder, signature.args[k], args[k]) for k in (2, 6))
        listed = _List(context, builder, (signature.args[3], None), (args[3], None, lo, hi))
        one, width, zeros = lo.type(1), x.width, constant(x.element, [0.0] * DOT)
        whole = builder.and_(width, width.type(-DOT))
        all_of = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(x.element, [x.element, zeros.type]),
            f"llvm.vector.reduce.fadd.v{DOT}{x.element.intrinsic_name}",
        )  # fmt: skip

        def dots(j, count):
            """Those of entries j to j + count, side by side, so that x is loaded once."""
            places = [builder.add(j, lo.type(k)) for k in range(count)]
            rows = [listed.row(place) for place in places]
            sums = [cgutils.alloca_once_value(builder, zeros) for _ in rows]
            with cgutils.for_range_slice(builder, lo.type(0), whole, lo.type(DOT), lo.type) as (c, _):
                block = x.load_row(t, c, DOT)
                for total, row in zip(sums, rows, strict=True):
                    part = builder.fmul(weight.load_row(row, c, DOT), block, flags=FLAGS)
                    builder.store(builder.fadd(builder.load(total), part, flags=FLAGS), total)
            for place, total, row in zip(places, sums, rows, strict=True):
                found = builder.call(all_of, [x.element(-0.0), builder.load(total)], fastmath=FLAGS)
                found = cgutils.alloca_once_value(builder, spread(builder, found, 1))
                with cgutils.for_range_slice(builder, whole, width, one, lo.type) as (c, _):
                    part = builder.fmul(weight.load_row(row, c, 1), x.load_row(t, c, 1), flags=FLAGS)
                    builder.store(builder.fadd(builder.load(found), part, flags=FLAGS), found)
                to = builder.add(start, builder.sub(place, lo))
                out.store(builder.fadd(out.load(to, 1), builder.load(found), flags=FLAGS), to)

        fours = builder.add(lo, builder.and_(builder.sub(hi, lo), lo.type(-4)))
        with cgutils.for_range_slice(builder, lo, fours, lo.type(4), lo.type) as (j, _):
            dots(j, 4)
        with cgutils.for_range_slice(builder, fours, hi, one, lo.type) as (j, _):
            dots(j, 1)
        return context.get_dummy_value()

    intp = types.intp
    return types.none(out, intp, weight, rows, intp, intp, x, intp), codegen


# Plain functions around the intrinsics, for the disk cache: see bits.py.
@inlined
def sum_rows(x, t, start, s, weight, rows, values, lo, hi):
    """x[t] = start[s] + sum of value * weight[row] over a list of rows; `values` None means 1 each."""
    _sum_rows(x, t, start, s, weight, rows, values, lo, hi)


@inlined
def spread_row(grad, x, t, rows, values, lo, hi):
    """grad[row] += value * x[t] for a list of rows, a repeated row as often as it stands there; `values` as above."""
    _spread_row(grad, x, t, rows, values, lo, hi)


@inlined
def dot_rows(out, start, weight, rows, lo, hi, x, t):
    """out[start + j - lo] += weight[rows[j]] . x[t] for j from lo to hi."""
    _dot_rows(out, start, weight, rows, lo, hi, x, t)
