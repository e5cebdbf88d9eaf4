package main

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"

	"iapi/measure"
)

// placeFlags say where to measure. The same flag again means or (with --vm-tag and --host-tag of different keys: and);
// different flags mean and.
type placeFlags struct {
	All       bool       `help:"Every zone of the owner." group:"scope"`
	EveryHost bool       `help:"Every host, whole (operators)." group:"scope"`
	VM        []uuidText `name:"vm" sep:"none" help:"This zone. Again: or." placeholder:"UUID" group:"scope"`
	VMAlias   []string   `name:"vm-alias" sep:"none" help:"The zone with this alias. Again: or." placeholder:"NAME" group:"scope"`
	VMTag     []string   `name:"vm-tag" sep:"none" help:"Zones with this tag; KEY alone: whatever its value. The same key again: or; another key: and." placeholder:"KEY=VALUE" group:"scope"`
	Host      []uuidText `sep:"none" help:"This host (operators). Again: or." placeholder:"UUID" group:"scope"`
	HostTag   []string   `name:"host-tag" sep:"none" help:"Hosts with this trait (operators). As --vm-tag." placeholder:"KEY=VALUE" group:"scope"`
	Scope     string     `help:"Any scope, as the API's ScopeInput; @FILE reads it from a file." placeholder:"JSON" group:"scope"`
}

// scopeFlags say where to measure, and for whom.
type scopeFlags struct {
	placeFlags
	Owner uuidText `help:"For this account. Without: the operators' own." placeholder:"UUID" group:"scope"`
}

// input makes a ScopeInput.
func (f scopeFlags) input() (map[string]any, error) {
	if f.All && f.Owner == "" {
		return nil, usageError("--all needs --owner: whose zones?")
	}
	scope, err := f.placeFlags.input()
	if err == nil && scope == nil {
		return nil, usageError("say what to instrument: --every-host, --all with --owner, --vm, --vm-alias, --vm-tag, --host, --host-tag or --scope")
	}
	return scope, err
}

// input makes a ScopeInput; nil where no flag is given.
func (f placeFlags) input() (map[string]any, error) {
	var terms []map[string]any
	if f.All {
		terms = append(terms, map[string]any{"all": true})
	}
	if f.EveryHost {
		terms = append(terms, map[string]any{"everyHost": true})
	}
	if len(f.VM) > 0 {
		terms = append(terms, map[string]any{"vms": f.VM})
	}
	if len(f.VMAlias) > 0 {
		var aliases []map[string]any
		for _, a := range f.VMAlias {
			aliases = append(aliases, map[string]any{"vmAlias": a})
		}
		terms = append(terms, combine("or", aliases))
	}
	tags, err := tagTerms("vm-tag", "vmTag", f.VMTag)
	if err != nil {
		return nil, err
	}
	terms = append(terms, tags...)
	if len(f.Host) > 0 {
		terms = append(terms, map[string]any{"hosts": f.Host})
	}
	tags, err = tagTerms("host-tag", "hostTag", f.HostTag)
	if err != nil {
		return nil, err
	}
	terms = append(terms, tags...)
	if f.Scope != "" {
		text, err := orFile("scope", f.Scope)
		if err != nil {
			return nil, err
		}
		var term map[string]any
		if err := json.Unmarshal([]byte(text), &term); err != nil || len(term) == 0 {
			return nil, usageError("--scope: want a JSON object such as {\"vmTag\":{\"key\":\"role\"}}, not %s", shorten(text))
		}
		terms = append(terms, term)
	}
	if len(terms) == 0 {
		return nil, nil
	}
	return combine("and", terms), nil
}

// orFile is a flag's text, or what is in the file that @FILE names.
func orFile(flag, text string) (string, error) {
	path, named := strings.CutPrefix(text, "@")
	if !named {
		return text, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", usageError("--%s: %w", flag, err)
	}
	return string(raw), nil
}

// shorten quotes a text for a message.
func shorten(text string) string {
	if len(text) > 60 {
		text = text[:60] + "…"
	}
	return strconv.Quote(text)
}

// combine leaves a single term as it is.
func combine(op string, terms []map[string]any) map[string]any {
	if len(terms) == 1 {
		return terms[0]
	}
	return map[string]any{op: terms}
}

// tagTerms makes one term for each key, in the order of their first use.
func tagTerms(flag, member string, pairs []string) ([]map[string]any, error) {
	var keys []string
	values := make(map[string][]string)
	exists := make(map[string]bool)
	for _, p := range pairs {
		key, value, has := strings.Cut(p, "=")
		if key == "" {
			return nil, usageError("--%s %q: want KEY=VALUE, or KEY alone", flag, p)
		}
		if _, known := values[key]; !known {
			keys = append(keys, key)
			values[key] = nil
		}
		if has {
			values[key] = append(values[key], value)
		} else {
			exists[key] = true
		}
	}
	var terms []map[string]any
	for _, key := range keys {
		match := map[string]any{"key": key}
		if !exists[key] {
			match["in"] = values[key]
		}
		terms = append(terms, map[string]any{member: match})
	}
	return terms, nil
}

// predicateInput turns CA 1.0's predicate syntax into a PredicateInput; nil for a predicate that filters nothing.
func predicateInput(text string) (map[string]any, error) {
	text, err := orFile("where", text)
	if err != nil {
		return nil, err
	}
	p, err := measure.ParsePredicate([]byte(text))
	if err != nil {
		return nil, usageError("--where: %w", err)
	}
	if p.IsZero() {
		return nil, nil
	}
	return predicateNode(p), nil
}

func predicateNode(p measure.Predicate) map[string]any {
	if p.Op == measure.And || p.Op == measure.Or {
		args := make([]map[string]any, 0, len(p.Args))
		for _, a := range p.Args {
			args = append(args, predicateNode(a))
		}
		return map[string]any{string(p.Op): args}
	}
	var value any = p.Value.Str()
	if p.Value.IsNumber() {
		value = p.Value.Num()
	}
	return map[string]any{string(p.Op): map[string]any{"field": p.Field, "value": value}}
}

// tagInputs parses KEY=VALUE pairs.
func tagInputs(flag string, pairs []string) ([]map[string]string, error) {
	var tags []map[string]string
	for _, p := range pairs {
		key, value, ok := strings.Cut(p, "=")
		if !ok || key == "" {
			return nil, usageError("--%s %q: want KEY=VALUE", flag, p)
		}
		tags = append(tags, map[string]string{"key": key, "value": value})
	}
	return tags, nil
}

// targetInputs turns targets' addresses into TargetInputs, each with the headers where it can have some.
func targetInputs(addresses, headers []string) ([]map[string]any, error) {
	var secrets []map[string]string
	for _, h := range headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok || name == "" {
			return nil, usageError("--header %s: want NAME=VALUE, or NAME=@FILE", shorten(name))
		}
		value, err := orFile("header", value)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, map[string]string{"name": name, "value": strings.TrimSpace(value)})
	}
	var targets []map[string]any
	used := len(secrets) == 0
	for _, address := range addresses {
		t, err := measure.ParseTarget(address)
		if err != nil {
			return nil, usageError("--target: %w", err)
		}
		var kind string
		var target map[string]any
		switch t.Kind {
		case measure.DataAPI:
			kind, target = "dataApi", map[string]any{"url": t.Address, "transport": t.Transport}
		case measure.Statsd:
			kind, target = "statsd", map[string]any{"address": t.Address, "prefix": t.Prefix}
		case measure.Graphite:
			kind, target = "graphite", map[string]any{"address": t.Address, "prefix": t.Prefix}
		default:
			kind, target = "otlp", map[string]any{"endpoint": t.Address}
		}
		if secrets != nil && (kind == "dataApi" || kind == "otlp") {
			target["headers"], used = secrets, true
		}
		targets = append(targets, map[string]any{kind: target})
	}
	if !used {
		return nil, usageError("--header goes with a --target that is a Data API or OTLP")
	}
	return targets, nil
}
