"""Each provider's own files, as its documentation shows them."""

from __future__ import annotations

import json

import pytest

from accounting.bills.usage_files import CACHED, INPUT, LONG, OUTPUT, WRITE, Used, read

OPENAI_USAGE = {
    "object": "page",
    "data": [
        {
            "object": "bucket",
            "start_time": 1767225600,
            "end_time": 1767312000,
            "results": [
                {
                    "object": "organization.usage.completions.result", "input_tokens": 5000, "output_tokens": 1000,
                    "input_cached_tokens": 4000, "input_audio_tokens": 0, "output_audio_tokens": 0,
                    "num_model_requests": 5, "project_id": None, "model": "gpt-4o-2024-08-06", "batch": False,
                }
            ],
        }
    ],
    "has_more": False,
}  # fmt: skip
OPENAI_COSTS = {
    "object": "page",
    "data": [
        {
            "object": "bucket",
            "start_time": 1767225600,
            "end_time": 1767312000,
            "results": [
                {
                    "object": "organization.costs.result", "amount": {"value": 0.0125, "currency": "usd"},
                    "line_item": "gpt-4o-2024-08-06, cached input", "project_id": None,
                },
                {
                    "object": "organization.costs.result", "amount": {"value": 0.06, "currency": "usd"},
                    "line_item": "Image models", "project_id": None,
                },
            ],
        }
    ],
}  # fmt: skip
ANTHROPIC_USAGE = {
    "data": [
        {
            "starting_at": "2026-01-01T00:00:00Z",
            "ending_at": "2026-01-02T00:00:00Z",
            "results": [
                {
                    "uncached_input_tokens": 1500,
                    "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
                    "cache_read_input_tokens": 200, "output_tokens": 500,
                    "server_tool_use": {"web_search_requests": 10},
                    "api_key_id": None, "workspace_id": None, "model": "claude-sonnet-4-5-20250929",
                    "service_tier": "batch", "context_window": "0-200k",
                }
            ],
        }
    ],
    "has_more": False,
    "next_page": None,
}  # fmt: skip
ANTHROPIC_COSTS = {
    "data": [
        {
            "starting_at": "2026-01-01T00:00:00Z",
            "ending_at": "2026-01-02T00:00:00Z",
            "results": [
                {
                    "currency": "USD", "amount": "123.45", "workspace_id": None, "cost_type": "tokens",
                    "description": "Claude Sonnet 4.5 Usage - Input Tokens", "model": "claude-sonnet-4-5-20250929",
                    "context_window": "0-200k", "service_tier": "standard", "token_type": "uncached_input_tokens",
                },
                {
                    "currency": "USD", "amount": "10", "workspace_id": None, "cost_type": "web_search",
                    "description": "Web Search Usage", "model": None, "service_tier": None, "token_type": None,
                },
            ],
        }
    ],
}  # fmt: skip
DAY = "2026-01-01"
OPENAI_LINE = Used(DAY, "gpt-4o-2024-08-06", {INPUT: 1000, CACHED: 4000, OUTPUT: 1000}, False, 5)
ANTHROPIC_TOKENS = {INPUT: 1500, CACHED: 200, WRITE: 500, LONG: 1000, OUTPUT: 500}


@pytest.mark.parametrize(
    ("provider", "text", "lines"),
    [
        ("openai", json.dumps(OPENAI_USAGE), [OPENAI_LINE]),
        ("openai", json.dumps([OPENAI_USAGE, OPENAI_USAGE]), [OPENAI_LINE, OPENAI_LINE]),
        ("openai", f"{json.dumps(OPENAI_USAGE)}\n{json.dumps(OPENAI_USAGE)}\n", [OPENAI_LINE, OPENAI_LINE]),
        (
            "openai",
            json.dumps(OPENAI_COSTS),
            [
                Used(DAY, "gpt-4o-2024-08-06", nano=12_500_000, what="gpt-4o-2024-08-06, cached input"),
                Used(DAY, "", nano=60_000_000, what="Image models"),
            ],
        ),
        (
            "openai",
            "\ufeffstart_time,start_time_iso,num_model_requests,model,batch,input_tokens,input_cached_tokens,output_tokens\n"
            "1767225600,2026-01-01T00:00:00+00:00,5,gpt-4o-2024-08-06,False,5000,4000,1000\n",
            [OPENAI_LINE],
        ),
        (
            "openai",
            "start_time,start_time_iso,amount_value,amount_currency,line_item\n"
            '1767225600,2026-01-01T00:00:00+00:00,0.0125,usd,"gpt-4o-2024-08-06, cached input"\n',
            [Used(DAY, "gpt-4o-2024-08-06", nano=12_500_000, what="gpt-4o-2024-08-06, cached input")],
        ),
        (
            "openai",  # as the dashboard writes a day on which nothing was used
            "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id,"
            "organization_id,organization_name\n"
            "1767225600,1767312000,2026-01-01T00:00:00+00:00,2026-01-02T00:00:00+00:00,0.0125,usd,"
            '"priority | gpt-5.2, output, long context",,org-1,Personal\n'
            "1767312000,1767398400,2026-01-02T00:00:00+00:00,2026-01-03T00:00:00+00:00,,,,,,\n"
            "1767398400,1767484800,2026-01-03T00:00:00+00:00,2026-01-04T00:00:00+00:00,,,,,org-1,Personal\n"
            ",,,,,,,,,\n",
            [
                Used(DAY, "gpt-5.2", nano=12_500_000, what="priority | gpt-5.2, output, long context"),
                Used("2026-01-02", ""),
                Used("2026-01-03", ""),
            ],
        ),
        (
            "openai",
            "start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,model,"
            "batch,service_tier,input_tokens,output_tokens,input_cached_tokens\n"
            "1767225600,1767312000,2026-01-01T00:00:00+00:00,2026-01-02T00:00:00+00:00,proj-1,5.0,,,gpt-4o-2024-08-06,"
            "FALSE,default,5000.0,1000.0,4000.0\n"
            "1767312000,1767398400,2026-01-02T00:00:00+00:00,2026-01-03T00:00:00+00:00,,,,,,,,,,\n",
            [OPENAI_LINE, Used("2026-01-02", "")],
        ),
        (
            "openai",
            json.dumps(OPENAI_COSTS | {"data": [
                {"start_time": 1767225600, "end_time": 1767312000, "results": [
                    {"amount": {"value": "0E-6176", "currency": "usd"}, "line_item": "codex-mini-latest, cached input"},
                ]},
                {"start_time": 1767312000, "end_time": 1767398400, "results": []},
            ]}),
            [
                Used(DAY, "codex-mini-latest", nano=0, what="codex-mini-latest, cached input"),
                Used("2026-01-02", ""),
            ],
        ),
        (
            "anthropic",
            json.dumps(ANTHROPIC_USAGE),
            [Used(DAY, "claude-sonnet-4-5-20250929", ANTHROPIC_TOKENS, True)],
        ),
        (
            "anthropic",
            json.dumps(ANTHROPIC_COSTS),
            [
                Used(
                    DAY, "claude-sonnet-4-5-20250929", None, False, None, 1_234_500_000,
                    "Claude Sonnet 4.5 Usage - Input Tokens",
                ),
                Used(DAY, "", None, None, None, 100_000_000, "Web Search Usage"),
            ],
        ),
        (
            "anthropic",
            "usage_date_utc,model_version,api_key,workspace,usage_type,usage_input_tokens_no_cache,"
            "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
            "usage_output_tokens\n"
            "2026-01-01,claude-sonnet-4-5-20250929,k,Default,batch,1500,500,1000,200,500\n",
            [Used(DAY, "claude-sonnet-4-5-20250929", ANTHROPIC_TOKENS, True)],
        ),
        (
            "anthropic",
            "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_input_tokens_cache_write,"
            "usage_input_tokens_cache_read,usage_output_tokens,web_search_count\n2026-01-01,m,1500,500,200,500,0\n",
            [Used(DAY, "m", ANTHROPIC_TOKENS | {LONG: 0})],
        ),
        (
            "anthropic",
            "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,"
            "cost_type,inference_geo,speed\n"
            "2026-01-01,Claude Haiku 4.5,Default,k,message,≤ 200k,input_no_cache,0.05,0.05,token,not_available,\n"
            "2026-01-01,Claude 3.5 Sonnet 2024-10-22,,k,message,≤ 200k,output,0.02,0.02,token,not_available,\n"
            "2026-01-01,Claude Haiku 4.5,Default,k,message,,,0.01,0.01,web_search,not_available,\n",
            [
                Used(DAY, "claude-haiku-4-5", None, None, None, 50_000_000, "input_no_cache"),
                Used(DAY, "claude-3-5-sonnet-20241022", None, None, None, 20_000_000, "output"),
                Used(DAY, "", None, None, None, 10_000_000, "web_search"),
            ],
        ),
        (
            "together",
            "date,model,requests,input_tokens,output_tokens,cost_usd\n2026-01-01,m,2,10,5,0.25\n2026-01-01,,,,,1\n",
            [
                Used(DAY, "m", {INPUT: 10, OUTPUT: 5}, None, 2, 250_000_000),
                Used(DAY, "", None, None, None, 1_000_000_000),
            ],
        ),
    ],
)  # fmt: skip
def test_a_providers_file_is_read_in_disjoint_classes(provider: str, text: str, lines: list[Used]) -> None:
    assert read(text, provider) == lines


@pytest.mark.parametrize(
    ("provider", "text", "said"),
    [
        ("openai", "", "no lines of usage"),
        ("openai", "{", "Expecting"),
        (
            "openai",
            '{"data": [{"start_time": 1767225600, "results": [{"output_tokens": 1}]}]}',
            "line 1 .* 'input_tokens'",
        ),
        ("openai", json.dumps(OPENAI_USAGE).replace('"gpt-4o-2024-08-06"', "null"), "grouped by model"),
        ("openai", json.dumps(OPENAI_COSTS).replace('"usd"', '"eur"'), "in eur, and the ledger in USD"),
        ("openai", json.dumps(OPENAI_COSTS).replace('"Image models"', "null"), "grouped by it"),
        ("openai", '{"data": [{"results": []}]}', "no lines of usage"),
        ("openai", "amount_value,line_item\n1,x\n", "line 1 .* no 'date'"),
        ("anthropic", "usage_date_utc,model_version\n2026-01-01,m\n", "line 1"),
        (
            "anthropic",
            json.dumps(ANTHROPIC_USAGE).replace('"claude-sonnet-4-5-20250929"', "null"),
            "grouped by model",
        ),
        (
            "anthropic",
            '{"data": [{"starting_at": "2026-01-01T00:00:00Z", "results": [{"amount": "5", "currency": "USD"}]}]}',
            "no description; export the costs grouped by it",
        ),
        ("acme", "date,modell\n2026-01-01,m\n", "'modell' is none of date, model"),
        ("acme", "date,model,input_tokens\n2026-01-01,m,1.5\n", "no number of tokens"),
        ("acme", "date,model,input_tokens\n1 May,m,1\n", "'1 May' is no day; write it as 2026-01-31"),
        ("acme", "date,model,input_tokens\n99999999999999,m,1\n", "'99999999999999' is no day"),
        ("acme", "date,model,input_tokens\n2026-01-01,m,1,2\n", "more cells than the heading"),
        ("acme", "date,model,input_tokens\n9999-12-31,m,1\n", "no day of a bill"),
        ("acme", "date,model,input_tokens\n2026-01-01,m,NaN\n", "'NaN' is no number"),
        ("acme", "date,model,cost_usd\n2026-01-01,m,$5\n", "'.5' is no number"),
        ("acme", "date,model,cost_usd\n2026-01-01,m,1e999\n", "no number of a bill"),
        ("acme", "date,model,batch,requests\n2026-01-01,m,maybe,1\n", "batch is 'maybe'"),
        ("acme", "date,model\n2026-01-01,m\n", "neither tokens nor requests nor cost_usd"),
        ("openai", "[" * 200_000, "neither pages of usage nor a CSV"),
        (
            "openai",
            json.dumps(OPENAI_USAGE).replace(
                '"input_cached_tokens": ', '"input_cached_tokens": 9000000000, "y": '
            ),
            "more than the input",
        ),
        (
            "openai",
            '{"error": {"message": "Incorrect API key"}}',
            "neither pages of usage nor a CSV .*'data'",
        ),
        ("openai", "[1]", "neither pages of usage nor a CSV"),
        ("acme", f"date,model\n2026-01-01,{'m' * 200_000}\n", "neither pages of usage nor a CSV"),
        (
            "openai",
            json.dumps(OPENAI_USAGE).replace('"input_tokens": ', '"input_tokens": Infinity, "x": '),
            "line 1",
        ),
    ],
)
def test_what_is_no_usage_is_told(provider: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(text, provider)


@pytest.mark.parametrize(
    ("item", "model"),
    [
        ("gpt-4o-2024-08-06, cached input", "gpt-4o-2024-08-06"),
        ("priority | gpt-5.2, output", "gpt-5.2"),
        ("flex tier | gpt-5, input", "gpt-5"),
        ("codex-mini-latest, input", "codex-mini-latest"),
        ("storage, file input", ""),
        ("code-interpreter, output", ""),
        ("Fine-tuning, training input tokens", ""),
        ("web search calls", ""),
    ],
)
def test_a_line_of_openais_bill_is_of_a_model_or_of_something_else(item: str, model: str) -> None:
    text = f'start_time,amount_value,amount_currency,line_item\n1767225600,1,usd,"{item}"\n'
    assert read(text, "openai") == [Used(DAY, model, nano=10**9, what=item)]
