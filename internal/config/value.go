package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The raw values. Each holds what was written and where; V is the zero value
// if it was not, or was wrong.

type text struct {
	here
	V     string
	isRef bool // V came from a reference; binder.report keeps it out of messages
}

func (t *text) bind(b *binder, n *node) { t.read(b, n, Warning) }

// read binds it; open is for expand.
func (t *text) read(b *binder, n *node, open Severity) {
	s, ok := n.value.(string)
	if !ok {
		b.errorAt(n, "this is %s; it must be a string in quotes", n.kind())
		return
	}
	v, isRef, ok := b.secrets.expand(b, n, s, open)
	if !ok {
		return
	}
	t.at, t.V, t.isRef = n, v, isRef
}

// scalar is a value that the decoder makes as it is wanted.
type scalar[T int64 | bool] struct {
	here
	V T
}

func (s *scalar[T]) bind(b *binder, n *node) {
	v, ok := n.value.(T)
	if !ok {
		b.errorAt(n, "this is %s; it must be %s", n.kind(), map[any]string{false: "true or false", int64(0): "a whole number"}[any(v)])
		return
	}
	s.at, s.V = n, v
}

type boolean = scalar[bool]

type integer struct{ scalar[int64] }

// within reports whether i lies between least and most, or was not set.
func (i integer) within(b *binder, least, most int64, what string) bool {
	if !i.set() || i.V >= least && i.V <= most {
		return true
	}
	b.errorAt(i.at, "%s is %d; it must be between %d and %d", what, i.V, least, most)
	return false
}

type duration struct {
	here
	V time.Duration
}

func (d *duration) bind(b *binder, n *node) {
	switch v := n.value.(type) {
	case string:
		if t, err := parseDuration(v); err != nil {
			b.errorAt(n, "%v", err)
		} else {
			d.at, d.V = n, t
		}
	case int64:
		b.errorAt(n, `a time needs its unit: "%ds" or "%dms"`, v, v)
	default:
		b.errorAt(n, `this is %s; a time is written "500ms", "5s" or "14d"`, n.kind())
	}
}

// atLeast reports a value that is set and shorter.
func (d duration) atLeast(b *binder, least time.Duration, what string) {
	if d.set() && d.V < least {
		b.errorAt(d.at, "%s is %s; the least is %s", what, d.at.value, least)
	}
}

// parseDuration is time.ParseDuration with days and weeks (of 24 hours), and
// without signs.
func parseDuration(s string) (time.Duration, error) {
	wrong := fmt.Errorf(`%q is not a time; write "500ms", "5s", "1m30s", "14d" or "2w"`, s)
	var total float64
	rest := s
	for ok := true; ok; ok = rest != "" {
		n := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if n <= 0 {
			return 0, wrong
		}
		number, tail := rest[:n], rest[n:]
		m := strings.IndexFunc(tail, func(r rune) bool { return r >= '0' && r <= '9' || r == '.' })
		if m < 0 {
			m = len(tail)
		}
		each, ok := timeUnits[tail[:m]]
		v, err := strconv.ParseFloat(number, 64)
		if !ok || err != nil {
			return 0, wrong
		}
		total += v * float64(each)
		rest = tail[m:]
	}
	if total >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is longer than 292 years", s)
	}
	return time.Duration(math.Round(total)), nil
}

var timeUnits = map[string]time.Duration{
	"us": time.Microsecond, "µs": time.Microsecond, "ms": time.Millisecond, "s": time.Second,
	"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

type size struct {
	here
	V int64 // bytes
}

func (z *size) bind(b *binder, n *node) {
	switch v := n.value.(type) {
	case string:
		if t, err := parseSize(v); err != nil {
			b.errorAt(n, "%v", err)
		} else {
			z.at, z.V = n, t
		}
	case int64:
		if v < 0 {
			b.errorAt(n, "a size is not negative")
			return
		}
		z.at, z.V = n, v
	default:
		b.errorAt(n, `this is %s; a size is written "512MiB"`, n.kind())
	}
}

var sizeUnits = map[string]float64{
	"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}

func parseSize(s string) (int64, error) {
	n := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if n > 0 {
		each, ok := sizeUnits[strings.ToLower(strings.TrimSpace(s[n:]))]
		v, err := strconv.ParseFloat(s[:n], 64)
		if ok && err == nil && v*each < math.MaxInt64 {
			return int64(v * each), nil
		}
	}
	return 0, fmt.Errorf(`%q is not a size; write "512MiB" or "2GB"`, s)
}

// texts is a list of strings; one string alone is a list of one.
type texts struct {
	here
	V []text
}

func (t *texts) bind(b *binder, n *node) {
	list := n.items
	if n.items == nil {
		list = []*node{n}
	}
	t.at = n
	for _, i := range list {
		var v text
		if v.bind(b, i); v.set() {
			t.V = append(t.V, v)
		}
	}
}

// any is a value of several possible kinds, to be looked at by whoever
// knows them.
type anything struct{ here }

func (a *anything) bind(_ *binder, n *node) { a.at = n }

// list returns the items of an array, or the one value that is none.
func (a *anything) list() []*node {
	switch {
	case a.at == nil:
		return nil
	case a.at.items != nil:
		return a.at.items
	}
	return []*node{a.at}
}

// words is a table of strings: { from = "to" }.
type words struct {
	here
	V []word
}

// A word is one entry; its key's place is that of its value's node.
type word struct {
	key   string
	value text
}

func (w *words) bind(b *binder, n *node) {
	if !n.isTable() {
		b.errorAt(n, `this is %s; it must be a table of strings: { "a" = "b" }`, n.kind())
		return
	}
	w.at = n
	for _, k := range n.order {
		var v text
		if v.bind(b, n.keys[k]); v.set() {
			w.V = append(w.V, word{k, v})
		}
	}
}

// tables is a keyed table of tables: [bus.X].
type tables[T any] struct {
	here
	V []entry[T]
}

// An entry is one table with its key.
type entry[T any] struct {
	key   string
	value *T
	at    *node
}

func (t *tables[T]) bind(b *binder, n *node) {
	if !n.isTable() {
		b.errorAt(n, "this holds named tables, not %s", n.kind())
		return
	}
	t.at = n
	for _, k := range n.order {
		v := new(T)
		c := n.keys[k]
		if s, ok := any(v).(bindable); ok {
			s.bind(b, c)
		} else if !b.table(c, v, describe(v)) {
			continue
		}
		t.V = append(t.V, entry[T]{k, v, c})
	}
}

// describe names what a raw table is, with its article.
func describe(v any) string {
	if d, ok := v.(interface{ what() string }); ok {
		return d.what()
	}
	return "this table"
}

// choice returns one of several words, the first given if t is not set.
func (b *binder) choice(t text, def string, words ...string) string {
	if !t.set() {
		return def
	}
	if !slices.Contains(words, t.V) {
		b.errorAt(t.at, "%q is none of the choices %q%s", t.V, strings.Join(words, ", "), didYouMean(nearest(t.V, words)))
		return def
	}
	return t.V
}
