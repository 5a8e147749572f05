"""The kernels, in Triton's language. Only this package imports `triton`.

Activations are [n, height, width, channels], with channels padded to a multiple of 32 by zeros. A tensor that a
convolution with a larger window than 1x1 reads has `padding` columns of zeros right of each row, and as many rows of
zeros below each image: every tap is then a plain shift, without masks. A tensor is therefore described by the number of
pixels from an image to the next (`xI` for x) and from a row to the next (`xW`).

Weights are [out, taps * in], in the order that the loop reads them.
"""
