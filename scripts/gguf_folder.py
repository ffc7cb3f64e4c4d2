"""Writes a GGUF model as a folder that vLLM reads: `.venv-vllm/bin/python scripts/gguf_folder.py MODEL.gguf FOLDER`.

For tests and benchmarks on the small packaged model. Wants transformers, gguf and accelerate, all in .venv-vllm.
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

source, target = map(Path, sys.argv[1:])
model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype="float32")
model.hf_quantizer = None  # its weights are plain numbers by now
del model.config.quantization_config
model.bfloat16().save_pretrained(target)
AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
