"""The comparison -> the model registry, and out of it: backbones and fine-tuned models that other code can use.

`decision` says what goes in and under which alias, `promoting` does it by `registering`, `demotion` takes it back;
`fetching` brings a registered backbone here as an initialization, `serving` answers requests, `exporting` writes ONNX.
"""
