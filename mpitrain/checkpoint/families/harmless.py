"""Keys of a config.json that leave a model's function alone: labels, identities of tokens, how text is generated, provenance.

Invariant: none of them changes a logit or a gradient in `transformers`, and of `ABSENT` no accepted value does.  Keys of one
family only stand with the family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What any config.json may say of things that no model of ours has: key to accepted values.
ABSENT: Mapping[str, tuple[Any, ...]] = {
    "cross_attention_hidden_size": (None,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "tie_encoder_decoder": (False,),
}

_IDENTITY = """
_name_or_path name_or_path _commit_hash _from_model_config _diffusers_version architectures auto_map model_type
transformers_version transformers.js_config unsloth_fixed unsloth_version
"""
_TOKENS = """
bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id prefix
tokenizer_class
"""
_LABELS = "_num_labels finetuning_task id2label label2id num_labels problem_type task_specific_params"
_EXECUTION = """
_attn_implementation _attn_implementation_autoset _attn_implementation_internal attn_implementation chunk_size_feed_forward
dtype initializer_range is_decoder output_attentions output_hidden_states output_past return_dict torch_dtype torchscript
transformers_weights use_bfloat16 use_cache
"""
_GENERATION = """
begin_suppress_tokens bad_words_ids diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id
length_penalty max_length max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
output_scores remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
"""

HARMLESS = frozenset(" ".join((_IDENTITY, _TOKENS, _LABELS, _EXECUTION, _GENERATION)).split())
