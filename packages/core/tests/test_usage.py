from pellucid.core._usage import UsageStats


def test_flops_are_told_only_when_counted():
    stats = UsageStats(total_tokens=3, total_flops=12)
    assert "total_flops" not in stats.to_dict(with_flops=False)
    assert stats.to_dict(with_flops=True)["total_flops"] == 12
    assert stats.to_dict(with_flops=False)["total_tokens"] == 3
