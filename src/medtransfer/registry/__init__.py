"""The comparison -> the model registry, and out of it: backbones and fine-tuned models that other code can use.

`decision` says what goes in and under which alias, `promote` does it by `register`, `demote` takes it back; `fetch`
brings a registered backbone here as an initialization, `serve` answers requests, `onnx` writes ONNX.
"""
