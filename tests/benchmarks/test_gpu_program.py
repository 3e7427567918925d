"""The account of a program for a GPU, against a program that is counted by hand."""

import pytest

from benchmarks.gpu_program import account_of_text, table

# A step of: a depthwise and a dense convolution by cuDNN, a convolution in a fusion of XLA's, a sum that also
# transposes, and a transpose alone.
TEXT = """HloModule jit_step, is_scheduled=true

%fused_transpose (p: f32[4,8]) -> f32[8,4] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %t = f32[8,4]{1,0} transpose(%p), dimensions={1,0}
}

%fused_sum (q: f32[4,8]) -> f32[8,4] {
  %q = f32[4,8]{1,0} parameter(0)
  %twice = f32[4,8]{1,0} add(%q, %q)
  ROOT %u = f32[8,4]{1,0} transpose(%twice), dimensions={1,0}
}

%fused_conv (a: bf16[1,4,4,2], b: bf16[1,1,2,2]) -> bf16[1,4,4,2] {
  %a = bf16[1,4,4,2]{3,2,1,0} parameter(0)
  %b = bf16[1,1,2,2]{3,2,1,0} parameter(1)
  ROOT %c = bf16[1,4,4,2]{3,2,1,0} convolution(%a, %b), window={size=1x1}, dim_labels=b01f_01io->b01f
}

ENTRY %main (w: f32[4,8], x: bf16[1,4,4,2], k: bf16[1,1,2,2]) -> f32[8,4] {
  %w = f32[4,8]{1,0} parameter(0)
  %x = bf16[1,4,4,2]{3,2,1,0} parameter(1)
  %k = bf16[1,1,2,2]{3,2,1,0} parameter(2)
  %deep = (bf16[1,4,4,2]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=1x1}, dim_labels=b01f_01io->b01f, feature_group_count=2, custom_call_target="__cudnn$convForward"
  %y = bf16[1,4,4,2]{3,2,1,0} get-tuple-element(%deep), index=0
  %dense = (bf16[1,1,2,2]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=1x1}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %own = bf16[1,4,4,2]{3,2,1,0} fusion(%y, %k), kind=kLoop, calls=%fused_conv
  %moved = f32[8,4]{1,0} fusion(%w), kind=kInput, calls=%fused_transpose
  ROOT %summed = f32[8,4]{1,0} fusion(%w), kind=kInput, calls=%fused_sum
}
"""  # noqa: E501


def test_an_account_is_what_counting_by_hand_gives():
    account = account_of_text(TEXT)
    assert account["convolutions"] == {
        "cuDNN forward, depthwise": 1,
        "cuDNN gradient of the kernel, dense": 1,
        "XLA's loops, dense": 1,
    }
    # Images have 64 bytes, kernels 8, matrices 128: 64 + 8 + 64; 64 + 64 + 8; 64 + 8 + 64; 2 · 128; 2 · 128.
    assert account["kernels"] == 5
    assert account["bytes_read_and_written"] == 3 * 136 + 2 * 256
    assert account["moves"] == {"transpose": [1, 256]}


def test_the_parts_add_up_to_the_whole():
    account = account_of_text(TEXT)
    kernels, moved = map(sum, zip(*account["by_part"].values(), strict=True))
    assert (kernels, moved) == (account["kernels"], account["bytes_read_and_written"])
    assert "| all | 5 | 0.00 |" in table(account)


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        account_of_text("HloModule empty")
