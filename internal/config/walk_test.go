package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// TestWalkFindsKeysAndValues shows each dotted path with its places, as
// "path key@line:col = value text".
func TestWalkFindsKeysAndValues(t *testing.T) {
	for _, c := range []struct{ doc, path, key, value string }{
		{"a = 1", "a", "1:1", "1"},
		{"[t]\na = 1", "t.a", "2:1", "1"},
		{"[t]\na = 1", "t", "1:2", "t"},
		{"[ x . \"y.z\" ]\nk=true # no", "x.y.z.k", "2:1", "true"},
		{"a.b.c = [1, 2]", "a.b.c", "1:5", "[1, 2]"},
		{"a = [10, 'x', { b = 2 }]", "a.2.b", "1:17", "2"},
		{"a = [\n 1, # one\n 22,\n]", "a.1", "1:1", "22"},
		{"[[d]]\nn=1\n[[d]]\nn=2\n[d.sub]\nk=3", "d.1.n", "4:1", "2"},
		{"[[d]]\nn=1\n[[d]]\nn=2\n[d.sub]\nk=3", "d.1.sub.k", "6:1", "3"},
		{"a = { b = { c = \"}\" }, d = 1 }", "a.d", "1:24", "1"},
		{"a = {\n  b = 1, # first\n  c = 2,\n}", "a.c", "3:3", "2"},
		{"a = \"\"\"x\ny = 1\n\"\"\"\nb = 2", "b", "4:1", "2"},
		{"a = '''it''s'''''\nb = 2", "b", "2:1", "2"},
		{"a = \"\\\"]\" # \"\nb = 1979-05-27 07:32:00\nc = 1", "b", "2:1", "1979-05-27 07:32:00"},
		{"\"\\u00e4\\x62\" = 5", "äb", "1:1", "5"},
		{"\ufeffa = 1", "a", "1:1", "1"},
		{"ok = 1\r\nwürde = 2\r\n", "ok", "1:1", "1"},
		{"\t\"größe\" = { \"länge\" = 7 }", "größe.länge", "1:14", "7"},
	} {
		p := find(walk([]byte(c.doc)), c.path)
		if p == nil {
			t.Errorf("%q: no place for %s", c.doc, c.path)
			continue
		}
		var i Issue
		(&source{name: "f", data: c.doc}).locate(&i, p.key)
		if got := fmt.Sprintf("%d:%d", i.Line, i.Column); p.key.end > 0 && got != c.key {
			t.Errorf("%q: key of %s at %s, want %s", c.doc, c.path, got, c.key)
		}
		if got := c.doc[p.val.start:p.val.end]; got != c.value {
			t.Errorf("%q: value of %s is %q, want %q", c.doc, c.path, got, c.value)
		}
	}
}

// find follows a path whose parts may hold dots: the longest key wins.
func find(p *place, path string) *place {
	if path == "" {
		return p
	}
	var i int
	if _, err := fmt.Sscanf(path, "%d", &i); err == nil && i < len(p.items) {
		_, rest, _ := strings.Cut(path, ".")
		return find(p.items[i], rest)
	}
	for k, c := range p.keys {
		if rest, ok := strings.CutPrefix(path, k); ok && (rest == "" || rest[0] == '.') {
			if f := find(c, strings.TrimPrefix(rest, ".")); f != nil {
				return f
			}
		}
	}
	return nil
}

// FuzzWalk checks the walk against the decoder: it never panics, and every
// key that the decoder finds has a place whose text is that key.
func FuzzWalk(f *testing.F) {
	for _, doc := range []string{
		"a = 1\n[b]\nc.d = {e = [1, {f = 2}]}\n[[g]]\nh = '''\n'''\n[[g]]\n[g.i]\nj = 1",
		"a = \"\"\"\\\"\"\"\"\"\"\nb = 1979-05-27 07:32:00.5Z\n'' = {x = 1,\n y = 2,}",
		"\"\\u00e4.b\".c = -1e+3 # x\n[ a . 'b' ]\r\nx=[\n[ ], # c\n[1,],\n]\n",
		"[a]\nb.c = 1\n[a.d]\n[[a.e]]\n[a.e.f]\n[[a.e.g]]\nx=inf", "\ufeff=", "[", "[[", "a={", "a=[", "'", "a='''",
	} {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		p := walk([]byte(doc))
		values := make(map[string]any)
		if _, err := toml.Decode(doc, &values); err != nil {
			return
		}
		checkPlaces(t, doc, values, p, "")
	})
}

func checkPlaces(t *testing.T, doc string, v any, p *place, path string) {
	switch v := v.(type) {
	case map[string]any:
		for k, c := range v {
			q := p.keys[k]
			if q == nil {
				t.Fatalf("no place for %s.%q", path, k)
			}
			if q.key.start >= q.key.end || q.key.end > len(doc) {
				t.Fatalf("empty key span of %s.%q", path, k)
			}
			if text := doc[q.key.start:q.key.end]; text[0] != '"' && text[0] != '\'' && text != k {
				t.Fatalf("the place of %s.%q holds %q", path, k, text)
			}
			checkPlaces(t, doc, c, q, path+"."+k)
		}
		if len(p.keys) != len(v) {
			t.Fatalf("%d places for the %d keys of %s", len(p.keys), len(v), path)
		}
	case []any:
		checkItems(t, doc, len(v), func(i int) any { return v[i] }, p, path)
	case []map[string]any:
		checkItems(t, doc, len(v), func(i int) any { return v[i] }, p, path)
	default:
		if p.val.start >= p.val.end || p.val.end > len(doc) {
			t.Fatalf("empty value span of %s", path)
		}
	}
}

func checkItems(t *testing.T, doc string, n int, at func(int) any, p *place, path string) {
	if len(p.items) != n {
		t.Fatalf("%d places for the %d items of %s", len(p.items), n, path)
	}
	for i := range n {
		checkPlaces(t, doc, at(i), p.items[i], fmt.Sprintf("%s[%d]", path, i))
	}
}
