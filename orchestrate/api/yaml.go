package api

import (
	"bytes"
	"encoding/json"

	"go.yaml.in/yaml/v3"
)

// YAML writes a JSON document as YAML, as kubectl does: keys sorted, lists not
// indented.
func YAML(doc []byte) ([]byte, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	e.CompactSeqIndent()
	if err := e.Encode(numbers(v)); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// numbers makes numbers of what the decoder left as text.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = numbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = numbers(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	return v
}
