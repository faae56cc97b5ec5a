# mypy: ignore-errors
"""The two GPU programs of ``triton_kernel``, in Triton's dialect of Python. Imports triton: import this file late.

Both read the table by columns, int32[K, n], entry 0 = nothing, i + 1 = row i, gather rows of the features straight into
the product and add up in float32. float32 features are multiplied in float32, not in TF32. Numbers of channels need be
neither powers of two nor multiples of 16: blocks are, and what lies beyond is masked.
"""

import triton
import triton.language as tl


# Sizes that change with every frame are not specialised on: that would compile anew for 1 and for multiples of 16.
@triton.jit(do_not_specialize=["n", "steps"])
def convolve(
    features,
    table,
    weight,
    out,
    n,
    steps,
    K: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    SKIP: tl.constexpr,
):
    """out[s, i] = sum over k of features[table[k, i] - 1] @ weight[k], over the share s of the products.

    A program makes ROWS x COLUMNS of the output, DEPTH input channels of an offset at a time. The grid is (blocks of
    rows, blocks of columns, shares); a share is ``steps`` such products. SKIP: an offset at which no row of the block
    has a neighbour costs no product, but then loads do not run ahead.
    """
    chunks: tl.constexpr = (C_IN + DEPTH - 1) // DEPTH
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    co = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    live = rows < n
    first = tl.program_id(2) * steps
    last = tl.minimum(first + steps, K * chunks)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(first, last):
        k = step // chunks
        ci = step % chunks * DEPTH + tl.arange(0, DEPTH)
        near = tl.load(table + k * n + rows, mask=live, other=0)
        source = features + (near - 1).to(tl.int64)[:, None] * C_IN + ci[None, :]
        held = (near > 0)[:, None] & (ci < C_IN)[None, :]
        kernel = weight + (k * C_IN + ci[:, None]) * C_OUT + co[None, :]
        inside = (ci < C_IN)[:, None] & (co < C_OUT)[None, :]
        if SKIP:
            if tl.max(near, axis=0) > 0:
                a = tl.load(source, mask=held, other=0.0)
                b = tl.load(kernel, mask=inside, other=0.0)
                total = tl.dot(a, b, total, input_precision="ieee")
        else:
            a = tl.load(source, mask=held, other=0.0)
            b = tl.load(kernel, mask=inside, other=0.0)
            total = tl.dot(a, b, total, input_precision="ieee")
    place = (tl.program_id(2) * n + rows).to(tl.int64)[:, None] * C_OUT + co[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=live[:, None] & (co < C_OUT)[None, :])


@triton.jit(do_not_specialize=["n", "rows_each"])
def weight_sums(
    features,
    table,
    grad,
    sums,
    n,
    rows_each,
    K: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    SKIP: tl.constexpr,
):
    """sums[s, k] = sum over the rows i of share s of features[table[k, i] - 1]^T @ grad[i], float32.

    The grid is (K, shares, blocks of C_IN times blocks of C_OUT); a share is ``rows_each`` rows, ROWS at a time.
    """
    across: tl.constexpr = (C_OUT + BLOCK_OUT - 1) // BLOCK_OUT
    k = tl.program_id(0)
    ci = tl.program_id(2) // across * BLOCK_IN + tl.arange(0, BLOCK_IN)
    co = tl.program_id(2) % across * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    first = tl.program_id(1) * rows_each
    last = tl.minimum(first + rows_each, n)
    total = tl.zeros((BLOCK_IN, BLOCK_OUT), dtype=tl.float32)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        near = tl.load(table + k * n + rows, mask=rows < last, other=0)
        source = features + (near - 1).to(tl.int64)[:, None] * C_IN + ci[None, :]
        held = (near > 0)[:, None] & (ci < C_IN)[None, :]
        slope = grad + rows.to(tl.int64)[:, None] * C_OUT + co[None, :]
        inside = (near > 0)[:, None] & (co < C_OUT)[None, :]
        if SKIP:
            if tl.max(near, axis=0) > 0:
                a = tl.load(source, mask=held, other=0.0)
                b = tl.load(slope, mask=inside, other=0.0)
                total = tl.dot(tl.trans(a), b, total, input_precision="ieee")
        else:
            a = tl.load(source, mask=held, other=0.0)
            b = tl.load(slope, mask=inside, other=0.0)
            total = tl.dot(tl.trans(a), b, total, input_precision="ieee")
    place = ((tl.program_id(1) * K + k) * C_IN + ci[:, None]) * C_OUT + co[None, :]
    tl.store(sums + place, total, mask=(ci < C_IN)[:, None] & (co < C_OUT)[None, :])
