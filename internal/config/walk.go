package config

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// A span is a range of bytes in a file.
type span struct{ start, end int }

// A place is where a key of a file stands, with what is below it. It mirrors
// the decoded value: keys for a table, items for an array.
type place struct {
	key    span // the key, or the last part of a table header; empty for array items
	val    span // the value; for a table made by a header, the header's key
	inline bool // the value stands beside its key: no header may extend it
	array  bool // of tables, extended by [[headers]]
	keys   map[string]*place
	order  []string // keys as written
	items  []*place
}

// child returns the place of a key below p, making it if it is new.
func (p *place) child(name string, key span) *place {
	if c, ok := p.keys[name]; ok {
		return c
	}
	if p.keys == nil {
		p.keys = make(map[string]*place)
	}
	c := &place{key: key, val: key}
	p.keys[name] = c
	p.order = append(p.order, name)
	return c
}

// last returns where a key below p leads: the newest table of an array.
func (p *place) last() *place {
	if n := len(p.items); n > 0 && p.array {
		return p.items[n-1]
	}
	return p
}

// maxDepth bounds recursion into arrays and inline tables.
const maxDepth = 256

// walk finds the place of every key of a TOML document (1.0, and what 1.1
// added to inline tables and escapes). It is made for documents that the
// decoder has accepted; in others it goes as far as it understands them. It
// keeps the first of a key given twice.
func walk(data []byte) *place {
	w := walker{data: data}
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		w.pos = 3
	}
	root := &place{}
	w.document(root)
	return root
}

type walker struct {
	data []byte
	pos  int
}

func (w *walker) document(root *place) {
	table := root
	for w.skipBlank(true) {
		ok := false
		if w.data[w.pos] == '[' {
			table, ok = w.header(root)
		} else {
			ok = w.keyValue(table, 0)
		}
		if !ok {
			return
		}
	}
}

// header reads [a.b] or [[a.b]] and returns the table that it opens.
func (w *walker) header(root *place) (*place, bool) {
	w.pos++
	array := w.accept('[')
	parts := w.dottedKey()
	if len(parts) == 0 || !w.accept(']') || array && !w.accept(']') {
		return nil, false
	}
	at := root
	for _, part := range parts[:len(parts)-1] {
		at = at.child(part.name, part.at).last()
	}
	leaf := parts[len(parts)-1]
	table := at.child(leaf.name, leaf.at)
	if !array {
		table.key, table.val = leaf.at, leaf.at // an explicit header over one implied earlier
		return table, true
	}
	table.array = true
	table.items = append(table.items, &place{key: leaf.at, val: leaf.at})
	return table.last(), true
}

// keyValue reads `a.b = value` into table.
func (w *walker) keyValue(table *place, depth int) bool {
	parts := w.dottedKey()
	if len(parts) == 0 || !w.accept('=') {
		return false
	}
	for _, part := range parts {
		table = table.last().child(part.name, part.at)
	}
	w.skipBlank(false)
	return w.value(table, depth)
}

// value reads one value and notes it in p.
func (w *walker) value(p *place, depth int) bool {
	if w.pos >= len(w.data) || depth > maxDepth {
		return false
	}
	start, ok := w.pos, true
	switch w.data[w.pos] {
	case '"', '\'':
		_, ok = w.str(true)
	case '[':
		ok = w.arrayValue(p, depth+1)
	case '{':
		ok = w.inlineTable(p, depth+1)
	default:
		w.scalar()
	}
	p.val, p.inline = span{start, w.pos}, true
	return ok && w.pos > start
}

func (w *walker) arrayValue(p *place, depth int) bool {
	w.pos++
	for w.skipBlank(true) {
		if w.accept(']') {
			return true
		}
		item := &place{}
		p.items = append(p.items, item)
		if !w.value(item, depth) || !w.skipBlank(true) {
			return false
		}
		if !w.accept(',') && w.data[w.pos] != ']' {
			return false
		}
	}
	return false
}

func (w *walker) inlineTable(p *place, depth int) bool {
	w.pos++
	for w.skipBlank(true) {
		if w.accept('}') {
			return true
		}
		if !w.keyValue(p, depth) || !w.skipBlank(true) {
			return false
		}
		if !w.accept(',') && w.data[w.pos] != '}' {
			return false
		}
	}
	return false
}

// scalar passes a number, boolean or date. A date may hold one space.
func (w *walker) scalar() {
	start := w.pos
	for w.pos < len(w.data) {
		switch c := w.data[w.pos]; c {
		case ',', ']', '}', '#', '\n', '\r', '\t':
			return
		case ' ':
			if w.pos-start != len("2006-01-02") || !w.digitAt(w.pos+1) {
				return
			}
		}
		w.pos++
	}
}

func (w *walker) digitAt(i int) bool {
	return i < len(w.data) && w.data[i] >= '0' && w.data[i] <= '9'
}

// A keyPart is one part of a dotted key.
type keyPart struct {
	name string
	at   span
}

// dottedKey reads a key; nil means that there is none.
func (w *walker) dottedKey() []keyPart {
	var parts []keyPart
	for {
		w.skipBlank(false)
		start := w.pos
		name, ok := w.simpleKey()
		if !ok {
			return nil
		}
		parts = append(parts, keyPart{name, span{start, w.pos}})
		if !w.accept('.') {
			return parts
		}
	}
}

func (w *walker) simpleKey() (string, bool) {
	if w.pos >= len(w.data) {
		return "", false
	}
	if c := w.data[w.pos]; c == '"' || c == '\'' {
		return w.str(false)
	}
	start := w.pos
	for w.pos < len(w.data) && isBare(w.data[w.pos]) {
		w.pos++
	}
	return string(w.data[start:w.pos]), w.pos > start
}

// isBare allows all bytes beyond ASCII too, which the decoder has judged.
func isBare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '_' || c == '-' || c >= utf8.RuneSelf
}

// str reads a string of any of the four kinds (the long ones only if multi
// is set) and returns its text. Long strings come back empty: no key is one.
func (w *walker) str(multi bool) (string, bool) {
	quote := w.data[w.pos]
	long := bytes.Repeat([]byte{quote}, 3)
	if multi && bytes.HasPrefix(w.data[w.pos:], long) {
		return "", w.longString(quote, long)
	}
	w.pos++
	var text []byte
	for w.pos < len(w.data) {
		c := w.data[w.pos]
		switch {
		case c == quote:
			w.pos++
			return string(text), true
		case c == '\n':
			return "", false
		case c == '\\' && quote == '"':
			text = w.escape(text)
		default:
			text = append(text, c)
			w.pos++
		}
	}
	return "", false
}

// longString passes a string in triple quotes; up to two quotes may stand
// just before the closing three.
func (w *walker) longString(quote byte, long []byte) bool {
	w.pos += 3
	for w.pos < len(w.data) {
		switch {
		case bytes.HasPrefix(w.data[w.pos:], long):
			w.pos += 3
			for range 2 {
				if w.pos < len(w.data) && w.data[w.pos] == quote {
					w.pos++
				}
			}
			return true
		case w.data[w.pos] == '\\' && quote == '"':
			w.pos = min(w.pos+2, len(w.data))
		default:
			w.pos++
		}
	}
	return false
}

// escape appends the character that the escape at the current position means.
func (w *walker) escape(dst []byte) []byte {
	w.pos++
	if w.pos >= len(w.data) {
		return dst
	}
	c := w.data[w.pos]
	w.pos++
	switch c {
	case 'b', 't', 'n', 'f', 'r', 'e':
		return append(dst, map[byte]byte{'b': 8, 't': 9, 'n': 10, 'f': 12, 'r': 13, 'e': 27}[c])
	case 'x', 'u', 'U':
		n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
		end := min(w.pos+n, len(w.data))
		code, _ := strconv.ParseUint(string(w.data[w.pos:end]), 16, 32)
		w.pos = end
		return utf8.AppendRune(dst, rune(code))
	}
	return append(dst, c)
}

// accept passes blanks and then c, if it is there.
func (w *walker) accept(c byte) bool {
	w.skipBlank(false)
	if w.pos < len(w.data) && w.data[w.pos] == c {
		w.pos++
		return true
	}
	return false
}

// skipBlank passes spaces and tabs, and line ends and comments too if lines is
// set. It reports whether anything is left.
func (w *walker) skipBlank(lines bool) bool {
	for w.pos < len(w.data) {
		switch c := w.data[w.pos]; {
		case c == ' ' || c == '\t':
			w.pos++
		case lines && (c == '\n' || c == '\r'):
			w.pos++
		case lines && c == '#':
			n := bytes.IndexByte(w.data[w.pos:], '\n')
			if n < 0 {
				w.pos = len(w.data)
				return false
			}
			w.pos += n
		default:
			return true
		}
	}
	return false
}
