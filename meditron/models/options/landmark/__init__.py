"""Landmark attention (Mohtashami and Jaggi, arXiv 2305.16300): random access to any block of a long input.

After every `block_size` regular tokens stands a landmark token, the last slot of its block. A query's
attention to an earlier block is its attention to that block's landmark, handed on to the block's tokens;
so a trained model finds the few blocks that matter among any number by their landmarks alone.

`attention.py` is the method, `memory.py` its use on inputs longer than the trained window,
`modeling_landmark.py` the Hugging Face model, `megatron.py` the training form, `kernel.py` the GPU kernel.
"""
