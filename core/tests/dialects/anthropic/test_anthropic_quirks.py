import pytest

from patchbay.dialects.anthropic import AnthropicQuirks
from patchbay.dialects.anthropic._quirks import ModelFeatures

OLDER = ModelFeatures(budget_thinking=True, temperature_with_top_p=False)
ALL_EFFORTS = ("low", "medium", "high", "xhigh", "max")
OPUS_4_7 = ModelFeatures(
    budget_thinking=False, adaptive_thinking=True, efforts=ALL_EFFORTS, sampling=False, temperature_with_top_p=False
)
OPUS_4_6 = ModelFeatures(adaptive_thinking=True, efforts=("low", "medium", "high", "max"), temperature_with_top_p=False)
NEWEST = ModelFeatures(
    budget_thinking=False,
    adaptive_thinking=True,
    thinks_by_default=True,
    efforts=ALL_EFFORTS,
    sampling=False,
    temperature_with_top_p=False,
    system_messages=True,
)


@pytest.mark.parametrize(
    ("model", "features"),
    [
        ("claude-3-5-haiku-latest", ModelFeatures(budget_thinking=False, structured_outputs=False)),
        ("claude-3-opus-20240229", ModelFeatures(budget_thinking=False, structured_outputs=False)),
        ("claude-3-7-sonnet-20250219", ModelFeatures(structured_outputs=False)),
        ("claude-opus-4-20250514", ModelFeatures(structured_outputs=False)),
        ("claude-opus-4@20250514", ModelFeatures(structured_outputs=False)),
        ("claude-opus-4-1-20250805", OLDER),
        ("claude-sonnet-4-5-20250929", OLDER),
        ("anthropic/claude-4.5-sonnet", OLDER),
        ("claude-haiku-4-5", OLDER),
        ("us.anthropic.claude-opus-4-6-v1", OPUS_4_6),
        ("claude-opus-4-6[1m]", OPUS_4_6),
        ("claude-opus-4-7", OPUS_4_7),
        ("Claude-Opus-5", NEWEST),
        ("claude-opus-latest", NEWEST),
        ("glm-5", ModelFeatures()),
    ],
)
def test_features(model: str, features: ModelFeatures) -> None:
    assert AnthropicQuirks().features(model) == features


def test_features_of_single_models() -> None:
    features = AnthropicQuirks().features
    assert features("claude-opus-4-5").efforts == ("low", "medium", "high")
    assert features("claude-opus-4-8").system_messages
    assert not features("claude-sonnet-5").system_messages
    assert not features("claude-fable-5-1").disabled_thinking
    assert not features("claude-mythos-preview").disabled_thinking
