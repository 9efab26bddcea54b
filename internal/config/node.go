package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml" // the decoder the project is bound to; it knows no positions of values, hence walk
)

// A node is a decoded value with the place it was written at. Nodes are not
// changed once parsed: overlay makes new tables that share what they hold.
type node struct {
	src   *source
	key   span
	val   span
	value any              // string, int64, float64, bool or time.Time; nil for tables and arrays
	keys  map[string]*node // not nil: a table
	order []string         // its keys as written
	items []*node          // not nil: an array

	// Of what stands in a list instead of a TOML file:
	spelled  string // how the value is written
	unplaced bool   // a point whose place is wrong, which was reported
}

// parse decodes a file. The second result is false after a syntax error,
// which is reported.
func parse(src *source, r *Report) (*node, bool) {
	values := make(map[string]any)
	if _, err := toml.Decode(src.data, &values); err != nil {
		reportSyntax(src, r, err)
		return nil, false
	}
	root := graft(src, values, walk([]byte(src.data)))
	root.key, root.val = span{}, span{}
	return root, true
}

func reportSyntax(src *source, r *Report, err error) {
	p, ok := errors.AsType[toml.ParseError](err)
	if !ok {
		r.add(Error, src, span{}, "%s", strings.TrimPrefix(err.Error(), "toml: "))
		return
	}
	at := span{p.Position.Start, p.Position.Start + p.Position.Len}
	r.add(Error, src, at, "%s; the rest of this file was not checked", sentence(p.Message))
}

// sentence is a message of the decoder in the form of ours.
func sentence(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(first)) + strings.TrimSuffix(s[size:], ".")
}

// graft joins a decoded value and its place.
func graft(src *source, value any, p *place) *node {
	n := &node{src: src, key: p.key, val: p.val}
	switch v := value.(type) {
	case map[string]any:
		n.keys = make(map[string]*node, len(v))
		for _, k := range orderedKeys(v, p) {
			c := p.keys[k]
			if c == nil {
				c = &place{key: p.key, val: p.val} // only if walk and decoder disagree
			}
			n.keys[k] = graft(src, v[k], c)
			n.order = append(n.order, k)
		}
	case []any:
		n.items = graftItems(src, len(v), func(i int) any { return v[i] }, p)
	case []map[string]any:
		n.items = graftItems(src, len(v), func(i int) any { return v[i] }, p)
	default:
		n.value = v
	}
	return n
}

func graftItems(src *source, n int, at func(int) any, p *place) []*node {
	items := make([]*node, n)
	for i := range items {
		c := p
		if i < len(p.items) {
			c = p.items[i]
		}
		items[i] = graft(src, at(i), c)
	}
	return items
}

// orderedKeys returns the keys of v as written.
func orderedKeys(v map[string]any, p *place) []string {
	keys := slices.DeleteFunc(slices.Clone(p.order), func(k string) bool { _, ok := v[k]; return !ok })
	if len(keys) == len(v) {
		return keys
	}
	return sortedKeys(v)
}

func (n *node) isTable() bool { return n != nil && n.keys != nil }

// child returns what a table holds under name, nil if nothing.
func (n *node) child(name string) *node {
	if n == nil {
		return nil
	}
	return n.keys[name]
}

// with returns a copy of table n in which name is c, or absent if c is nil.
func (n *node) with(name string, c *node) *node {
	t := *n
	t.keys = maps.Clone(n.keys)
	t.order = slices.DeleteFunc(slices.Clone(n.order), func(k string) bool { return k == name })
	delete(t.keys, name)
	if c != nil {
		t.keys[name] = c
		t.order = append(t.order, name)
	}
	return &t
}

// written is the value as it stands in the file.
func (n *node) written() string {
	if n.spelled != "" {
		return n.spelled
	}
	end := min(n.val.end, len(n.src.data))
	return n.src.data[min(n.val.start, end):end]
}

// inside is the place of bytes start to end of the string that n is. Of a
// string with escapes that is only known by its line.
func (n *node) inside(start, end int) span {
	text, ok := n.value.(string)
	raw := n.written()
	for _, quote := range []string{"'''", `"""`, "'", `"`} {
		if !strings.HasPrefix(raw, quote) || !ok {
			continue
		}
		from := n.val.start + len(quote)
		inner := raw[len(quote) : len(raw)-min(len(quote), len(raw)-len(quote))]
		if len(quote) == 3 { // a line end just behind the quotes is not part of it
			cut := strings.TrimPrefix(strings.TrimPrefix(inner, "\r"), "\n")
			from, inner = from+len(inner)-len(cut), cut
		}
		if inner == text {
			return span{from + start, from + end}
		}
		return n.lineInside(from, strings.Count(text[:min(start, len(text))], "\n"))
	}
	return n.val
}

// lineInside is the k-th line of a long string that begins at from.
func (n *node) lineInside(from, k int) span {
	for ; k > 0; k-- {
		i := strings.IndexByte(n.src.data[from:n.val.end], '\n')
		if i < 0 {
			break
		}
		from += i + 1
	}
	line, _, _ := strings.Cut(n.src.data[from:n.val.end], "\n")
	return span{from, from + len(line)}
}

// keyText is the key as it stands in the file.
func (n *node) keyText() string { return n.src.data[n.key.start:n.key.end] }

// kind says what n is, with its article.
func (n *node) kind() string {
	switch n.value.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case time.Time:
		return "a date"
	}
	if n.items != nil {
		return "an array"
	}
	return "a table"
}

// overlay returns far with near laid over it: tables are joined key by key,
// anything else near replaces far. Either may be nil.
func overlay(far, near *node) *node {
	switch {
	case near == nil:
		return far
	case !far.isTable() || !near.isTable():
		return near
	}
	t := *near
	t.keys = maps.Clone(far.keys)
	t.order = slices.Clone(far.order)
	for _, k := range near.order {
		if _, ok := t.keys[k]; !ok {
			t.order = append(t.order, k)
		}
		t.keys[k] = overlay(t.keys[k], near.keys[k])
	}
	return &t
}

// as returns a node at the place of n that holds another value.
func (n *node) as(value any) *node { return &node{src: n.src, key: n.key, val: n.val, value: value} }

// replace returns a copy of table n in which name is c, at its old place in
// the order.
func (n *node) replace(name string, c *node) *node {
	t := *n
	t.keys = maps.Clone(n.keys)
	t.keys[name] = c
	return &t
}

// split returns table n with the named keys only, and without them.
func (n *node) split(names ...string) (with, without *node) {
	a, b := *n, *n
	a.keys, b.keys, a.order, b.order = make(map[string]*node), make(map[string]*node), nil, nil
	for _, k := range n.order {
		part := &b
		if slices.Contains(names, k) {
			part = &a
		}
		part.keys[k] = n.keys[k]
		part.order = append(part.order, k)
	}
	return &a, &b
}

func (n *node) hasAny(names []string) bool {
	return n.isTable() && slices.ContainsFunc(names, func(k string) bool { return n.keys[k] != nil })
}

// where is the place of n as file:line.
func (n *node) where() string { return origin{n.src, n.key}.String() }

// An origin is a place in a file. It keeps the file's text, but nothing of what
// was made of it.
type origin struct {
	src *source
	at  span
}

// String is FILE:LINE.
func (o origin) String() string {
	var i Issue
	o.src.locate(&i, o.at)
	return fmt.Sprintf("%s:%d", i.File, i.Line)
}
