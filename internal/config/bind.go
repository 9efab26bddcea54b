package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A binder fills raw structs from nodes and reports what does not fit. Each
// raw struct lists the keys its table may hold as tags; binding goes on after
// an error, so that all of them are found.
type binder struct {
	*Report
	secrets *secrets
}

// A bindable is a raw value that takes itself from a node. It reports what
// is wrong and stays unset then.
type bindable interface {
	bind(b *binder, n *node)
}

// here is embedded in everything raw: where it was written, nil if nowhere.
type here struct{ at *node }

func (h *here) place(n *node) { h.at = n }
func (h here) set() bool      { return h.at != nil }

// errorAt and its kin report about a node: its value or its key.
func (b *binder) errorAt(n *node, format string, args ...any) {
	b.report(Error, n, n.val, format, args...)
}

func (b *binder) errorKey(n *node, format string, args ...any) {
	b.report(Error, n, n.key, format, args...)
}

func (b *binder) warnAt(n *node, format string, args ...any) {
	b.report(Warning, n, n.val, format, args...)
}

func (b *binder) warnKey(n *node, format string, args ...any) {
	b.report(Warning, n, n.key, format, args...)
}

// report files an issue. Where the value of n came from a reference the
// message shows the reference instead.
func (b *binder) report(sev Severity, n *node, at span, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if v := b.secrets.expanded[n]; v != "" {
		message = strings.NewReplacer(v, n.value.(string), strings.Trim(strconv.Quote(v), `"`), n.value.(string)).Replace(message)
	}
	b.add(sev, n.src, at, "%s", message)
}

// table fills the struct that dst points to from table n. what names the
// table for people: "a bus".
func (b *binder) table(n *node, dst any, what string) bool {
	if !n.isTable() {
		b.errorAt(n, "%s is a table of keys, not %s", what, n.kind())
		return false
	}
	v := reflect.ValueOf(dst).Elem()
	if p, ok := dst.(interface{ place(*node) }); ok {
		p.place(n)
	}
	fields := fieldsOf(v)
	for _, k := range n.order {
		if f, ok := fields[k]; ok {
			b.field(n.keys[k], k, f)
			continue
		}
		b.unknownKey(n.keys[k], k, what, sortedKeys(fields))
	}
	return true
}

func (b *binder) field(n *node, key string, f reflect.Value) {
	if t, ok := f.Addr().Interface().(bindable); ok {
		t.bind(b, n)
		return
	}
	b.table(n, f.Addr().Interface(), "["+key+"]")
}

// fieldsOf returns the fields of a raw struct by key, those of embedded
// structs too.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	fields := make(map[string]reflect.Value)
	for f, fv := range v.Fields() {
		if f.Anonymous && f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[here]() {
			maps.Copy(fields, fieldsOf(fv))
		} else if key := f.Tag.Get("toml"); key != "" {
			fields[key] = fv
		}
	}
	return fields
}

// keysOf lists the keys of a raw struct.
func keysOf[T any]() []string { return sortedKeys(fieldsOf(reflect.ValueOf(new(T)).Elem())) }

func (b *binder) unknownKey(n *node, key, what string, known []string) {
	near := nearest(key, known)
	switch {
	case slices.Contains(registerKeys, near) && slices.Contains(known, near):
		b.errorKey(n, "%q is not a register table%s", key, didYouMean(near))
	case key == "address" && slices.Contains(known, "holding"):
		b.errorKey(n, `the register table is the key: holding = N, input = N, coil = N or discrete = N, or ref = 40001 as in the manual`)
	default:
		b.errorKey(n, "%s has no key %q%s", what, key, didYouMean(near))
	}
}

func didYouMean(word string) string {
	if word == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", word)
}

// aliases are what other programs call our keys.
var aliases = map[string]string{
	"baudrate": "baud", "baud_rate": "baud", "speed": "baud",
	"parity": "format", "comset": "format", "stopbits": "format",
	"port": "address", "path": "address", "host": "address", "tty": "address",
	"slave": "unit_id", "slave_id": "unit_id", "id": "unit_id", "unit-id": "unit_id", "slave_address": "unit_id",
	"interval": "every", "scan_interval": "every", "poll": "every", "period": "every",
	"data_type": "type", "datatype": "type",
	"swap": "order", "byte_order": "order", "word_order": "order", "endianness": "order",
	"factor": "scale", "multiplier": "scale", "gain": "scale",
	"average": "mean", "avg": "mean", "heartbeat": "max_age", "throttle": "min_interval", "debounce": "min_interval",
	"writable": "write", "writeable": "write",
	"unit_of_measurement": "unit", "template": "profile", "model": "profile",
	"server": "url", "broker": "url", "user": "username", "pass": "password",
	"ca_file": "ca", "cafile": "ca", "cert_file": "cert", "certfile": "cert", "key_file": "key", "keyfile": "key",
	"password_file": "passwords", "passwd": "passwords", "acl": "acl_file", "allow_anonymous": "anonymous", "publish": "write", "subscribe": "read",
	"clientid": "client_id", "client-id": "client_id", "keep_alive": "keepalive",
}

// nearest returns the known word that was likely meant, "" if none is near.
func nearest(word string, known []string) string {
	lower := strings.ToLower(word)
	if a, ok := aliases[lower]; ok && slices.Contains(known, a) {
		return a
	}
	best, least := "", max(1, min(len(lower)/3, 3))
	for _, k := range known {
		if d := distance(lower, strings.ToLower(k)); d < len(lower) && (d < least || d == least && best == "") {
			best, least = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b (optimal string alignment).
func distance(a, b string) int {
	older, old, row := []int(nil), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, make([]int, len(b)+1)
	}
	return old[len(b)]
}
