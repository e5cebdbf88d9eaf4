package main

import (
	"encoding/json"
	"strings"

	"iapi/measure"
)

// scopeFlags say what to instrument. The same flag again means or (with --vm-tag and --host-tag of different keys: and);
// different flags mean and.
type scopeFlags struct {
	All       bool     `help:"Every zone of the owner." group:"scope"`
	EveryHost bool     `help:"Every host, whole (operators)." group:"scope"`
	VM        []string `name:"vm" sep:"none" help:"This zone. Again: or." placeholder:"UUID" group:"scope"`
	VMAlias   []string `name:"vm-alias" sep:"none" help:"The zone with this alias. Again: or." placeholder:"NAME" group:"scope"`
	VMTag     []string `name:"vm-tag" sep:"none" help:"Zones with this tag; KEY alone: whatever its value. The same key again: or; another key: and." placeholder:"KEY=VALUE" group:"scope"`
	Host      []string `sep:"none" help:"This host (operators). Again: or." placeholder:"UUID" group:"scope"`
	HostTag   []string `name:"host-tag" sep:"none" help:"Hosts with this trait (operators). As --vm-tag." placeholder:"KEY=VALUE" group:"scope"`
	Scope     string   `help:"Any scope, as the API's ScopeInput." placeholder:"JSON" group:"scope"`
	Owner     string   `help:"For this account. Without: the operators' own." placeholder:"UUID" group:"scope"`
}

// input makes a ScopeInput.
func (f scopeFlags) input() (map[string]any, error) {
	var terms []map[string]any
	if f.All {
		if f.Owner == "" {
			return nil, usageError("--all needs --owner: whose zones?")
		}
		terms = append(terms, map[string]any{"all": true})
	}
	if f.EveryHost {
		terms = append(terms, map[string]any{"everyHost": true})
	}
	if len(f.VM) > 0 {
		terms = append(terms, map[string]any{"vms": f.VM})
	}
	if len(f.VMAlias) > 0 {
		var any []map[string]any
		for _, a := range f.VMAlias {
			any = append(any, map[string]interface{}{"vmAlias": a})
		}
		terms = append(terms, combine("or", any))
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
		var term map[string]any
		if err := json.Unmarshal([]byte(f.Scope), &term); err != nil {
			return nil, usageError("--scope: not a JSON object: %w", err)
		}
		terms = append(terms, term)
	}
	if len(terms) == 0 {
		return nil, usageError("say what to instrument: --every-host, --all with --owner, --vm, --vm-tag, --host or --scope")
	}
	return combine("and", terms), nil
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

// targetInput turns a target's address into a TargetInput.
func targetInput(text string) (map[string]any, error) {
	t, err := measure.ParseTarget(text)
	if err != nil {
		return nil, usageError("--target: %w", err)
	}
	switch t.Kind {
	case measure.DataAPI:
		return map[string]any{"dataApi": map[string]any{"url": t.Address, "transport": t.Transport}}, nil
	case measure.Statsd:
		return map[string]any{"statsd": map[string]any{"address": t.Address, "prefix": t.Prefix}}, nil
	case measure.Graphite:
		return map[string]any{"graphite": map[string]any{"address": t.Address, "prefix": t.Prefix}}, nil
	default:
		return map[string]any{"otlp": map[string]any{"endpoint": t.Address}}, nil
	}
}
