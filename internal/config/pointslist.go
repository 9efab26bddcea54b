package config

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A rawPointsFile says how a list of points is to be read: a table with a
// point in each row, as programming tools of PLCs export it. It is written as
// the name of the file, or as a table.
type rawPointsFile struct {
	here
	File      text    `toml:"file"`
	Separator text    `toml:"separator"`
	Table     text    `toml:"table"`
	Base      integer `toml:"base"`
	Columns   words   `toml:"columns"`
	Types     words   `toml:"types"`
}

type pointsFileTable rawPointsFile

func (f *rawPointsFile) bind(b *binder, n *node) {
	f.at = n
	if n.isTable() {
		b.table(n, (*pointsFileTable)(f), "points_file")
		return
	}
	f.File.bind(b, n)
}

// listColumns are the columns that a list can have: keys of a point, and
// address with its table in another column or for all.
var listColumns = strings.Fields(`name address table coil discrete input holding ref type scale offset unit every
	group order deadband kind invalid enum write min max mask range_min range_max max_rate wrap scale_factor chars encoding zone compute`)

// withList lays the points of a device's list over those of its profile.
func (l *loader) withList(profile, n *node) *node {
	c := n.child("points_file")
	if c == nil {
		return profile
	}
	var raw rawPointsFile
	raw.bind(l.binder, c)
	if !raw.File.set() {
		if raw.at.isTable() && c.child("file") == nil {
			l.errorKey(c, `points_file needs file = "plc.csv"`)
		}
		return profile
	}
	points := l.readList(&raw)
	if points == nil {
		return profile
	}
	return overlayDevice(profile, &node{src: c.src, key: c.key, val: c.val, keys: map[string]*node{"points": points}, order: []string{"points"}})
}

// A pointList is a list while it is read.
type pointList struct {
	*loader
	raw     *rawPointsFile
	src     *source
	lines   []int          // where each line begins
	columns map[string]int // by key
	titles  []string
}

// readList returns the points of a list as a table of points, nil if there are
// none to be had.
func (l *loader) readList(raw *rawPointsFile) *node {
	list := &pointList{loader: l, raw: raw}
	if list.src = l.listSource(raw.File); list.src == nil {
		return nil
	}
	list.lines = lineStarts(list.src.data)
	rows, ok := list.rows()
	if !ok || !list.findColumns(rows[0]) {
		return nil
	}
	points := &node{src: list.src, key: rows[0][0].at, val: rows[0][0].at, keys: make(map[string]*node)}
	for _, row := range rows[1:] {
		name, p := list.point(row)
		switch other := points.keys[name]; {
		case p == nil:
		case other != nil:
			l.errorKey(p, "there are two points %q in the list; the other is in row %s", name, strings.TrimPrefix(other.where(), list.src.name+":"))
		default:
			points.keys[name] = p
			points.order = append(points.order, name)
		}
	}
	if len(points.order) == 0 && l.Errors() == 0 {
		l.warnAt(raw.File.at, "the list %s has no points", raw.File.V)
	}
	return points
}

// listSource reads a list into UTF-8.
func (l *loader) listSource(file text) *source {
	name := file.V
	if !filepath.IsAbs(name) {
		name = filepath.Join(l.dir, name)
	}
	data, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.errorAt(file.at, "there is no file %s", name)
	case err != nil:
		l.errorAt(file.at, "read %s: %v", name, plain(err))
	case len(data) > maxFile:
		l.errorAt(file.at, "%s is larger than %d bytes", name, maxFile)
	default:
		if !filepath.IsAbs(file.V) && !slices.Contains(l.cfg.Files, file.V) {
			l.cfg.Files = append(l.cfg.Files, file.V)
		}
		src := &source{name: file.V, order: l.files, data: toUTF8(data)}
		l.files++
		return src
	}
	return nil
}

// toUTF8 decodes what office programs and PLC tools write: UTF-8 and UTF-16
// with their marks, UTF-8 without, and else Windows-1252.
func toUTF8(data []byte) string {
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		data = data[3:]
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return fromUTF16(data)
	}
	if utf8.Valid(data) {
		return string(data)
	}
	var b strings.Builder
	for _, c := range data {
		if c >= 0x80 && c < 0xa0 {
			b.WriteRune(windows1252[c-0x80])
		} else {
			b.WriteRune(rune(c))
		}
	}
	return b.String()
}

// windows1252 are the characters 0x80 to 0x9f; the rest is as in Latin-1.
var windows1252 = [32]rune{
	'€', 0xfffd, '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', 0xfffd, 'Ž', 0xfffd,
	0xfffd, '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', 0xfffd, 'ž', 'Ÿ',
}

func fromUTF16(data []byte) string {
	little := data[0] == 0xff
	units := make([]uint16, 0, len(data)/2)
	for i := 2; i+1 < len(data); i += 2 {
		low, high := data[i+1], data[i]
		if little {
			low, high = high, low
		}
		units = append(units, uint16(high)<<8|uint16(low))
	}
	return string(utf16.Decode(units))
}

func lineStarts(data string) []int {
	starts := []int{0}
	for i := range len(data) {
		if data[i] == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

// A cell is one field of a row.
type cell struct {
	text string
	at   span
}

// rows cuts the list into rows of cells; the first holds the titles. Empty rows
// and those that begin with # are left out.
func (l *pointList) rows() ([][]cell, bool) {
	r := csv.NewReader(strings.NewReader(l.src.data))
	r.Comma, r.FieldsPerRecord, r.LazyQuotes = l.separator(), -1, true
	var rows [][]cell
	for {
		record, err := r.Read()
		if record == nil && err != nil {
			if e, ok := errors.AsType[*csv.ParseError](err); ok {
				at := l.offset(e.Line, e.Column)
				l.add(Error, l.src, span{at, at + 1}, "%v; the rest of this list was not read", e.Err)
				return nil, false
			}
			break
		}
		row := make([]cell, len(record))
		blank := true
		for i, field := range record {
			row[i] = cell{strings.TrimSpace(field), l.place(r, i, field)}
			blank = blank && row[i].text == ""
		}
		if !blank && !strings.HasPrefix(row[0].text, "#") {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		l.add(Error, l.src, span{}, "the list is empty: its first row holds the titles of the columns")
	}
	return rows, len(rows) > 0
}

// place finds where the i-th field that r has just read stands.
func (l *pointList) place(r *csv.Reader, i int, field string) span {
	line, column := r.FieldPos(i)
	at := l.offset(line, column)
	if at < len(l.src.data) && l.src.data[at] == '"' {
		return span{at, at + len(field) + 2}
	}
	lead := len(field) - len(strings.TrimLeft(field, " "))
	return span{at + lead, at + lead + len(strings.TrimSpace(field))}
}

func (l *pointList) offset(line, column int) int {
	return l.lines[min(max(line, 1), len(l.lines))-1] + column - 1
}

// separator is the one that was given, or the one that the titles have most.
func (l *pointList) separator() rune {
	if s := l.raw.Separator; s.set() {
		if r, size := utf8.DecodeRuneInString(s.V); size == len(s.V) && strings.ContainsRune(";,\t|", r) {
			return r
		}
		l.errorAt(s.at, `the separator %q is none of ";" "," "\t" "|"`, s.V)
	}
	titles := strings.TrimLeft(l.src.data, "\r\n ")
	titles, _, _ = strings.Cut(titles, "\n")
	best := ','
	for _, r := range ";\t|" {
		if strings.Count(titles, string(r)) > strings.Count(titles, string(best)) {
			best = r
		}
	}
	return best
}

// findColumns finds which column holds which key.
func (l *pointList) findColumns(titles []cell) bool {
	l.columns = make(map[string]int)
	for _, t := range titles {
		l.titles = append(l.titles, t.text)
	}
	for i, title := range l.titles {
		if key := strings.ToLower(title); slices.Contains(listColumns, key) {
			l.columns[key] = i
		}
	}
	ok := true
	for _, w := range l.raw.Columns.V {
		if !slices.Contains(listColumns, w.key) {
			l.errorKey(w.value.at, "a list has no column for %q; there is %s%s", w.key, strings.Join(listColumns, ", "), didYouMean(nearest(w.key, listColumns)))
			ok = false
			continue
		}
		i := slices.IndexFunc(l.titles, func(t string) bool { return strings.EqualFold(t, w.value.V) })
		if i < 0 {
			l.errorAt(w.value.at, "%s has no column %q; it has %s%s", l.src.name, w.value.V, strings.Join(l.titles, ", "), didYouMean(nearest(w.value.V, l.titles)))
			ok = false
			continue
		}
		l.columns[w.key] = i
	}
	if _, named := l.columns["name"]; !named && ok {
		l.add(Error, l.src, titles[0].at, `no column is called "name"; say which is: points_file = { file = %q, columns = { name = %q } }`, l.raw.File.V, titles[0].text)
		ok = false
	}
	return ok
}

// get returns a cell of a row, nil if it is not there or empty.
func (l *pointList) get(row []cell, key string) *cell {
	i, ok := l.columns[key]
	if !ok || i >= len(row) || row[i].text == "" {
		return nil
	}
	return &row[i]
}

// point makes the table of a point of a row.
func (l *pointList) point(row []cell) (string, *node) {
	name := l.get(row, "name")
	if name == nil {
		l.add(Error, l.src, row[0].at, "this row has no name in the column %q", l.titles[l.columns["name"]])
		return "", nil
	}
	p := &node{src: l.src, key: name.at, val: name.at, keys: make(map[string]*node)}
	set := func(key string, c *cell, value any) {
		p.keys[key] = &node{src: l.src, key: c.at, val: c.at, value: value, spelled: c.text}
		p.order = append(p.order, key)
	}
	l.setAddress(row, p, set)
	for _, key := range append([]string{"mask"}, registerKeys...) {
		if c := l.get(row, key); c != nil {
			if n, ok := l.whole(c); ok {
				set(key, c, n)
			} else if key != "mask" {
				p.unplaced = true
			}
		}
	}
	for _, key := range []string{"ref", "unit", "every", "group", "order", "kind", "chars", "encoding", "zone", "compute"} {
		if c := l.get(row, key); c != nil {
			set(key, c, c.text)
		}
	}
	for _, key := range []string{"scale", "offset", "deadband", "max_rate", "wrap"} {
		l.setNumber(row, key, set)
	}
	if c := l.get(row, "scale_factor"); c != nil {
		if n, err := strconv.ParseInt(c.text, 10, 64); err == nil {
			set("scale_factor", c, n-l.raw.Base.V)
		} else {
			set("scale_factor", c, c.text)
		}
	}
	if c := l.get(row, "type"); c != nil {
		set("type", c, l.typeOf(c))
	}
	l.setLists(row, p, set)
	return name.text, p
}

// setAddress sets the register of a row that has its table elsewhere.
func (l *pointList) setAddress(row []cell, p *node, set func(string, *cell, any)) {
	c := l.get(row, "address")
	if c == nil {
		return
	}
	p.unplaced = true
	n, ok := l.whole(c)
	if !ok {
		return
	}
	table := l.raw.Table.V
	if t := l.get(row, "table"); t != nil {
		table = tableWords[strings.ToLower(t.text)]
		if table == "" {
			l.add(Error, l.src, t.at, "%q is no register table: coil, discrete, input or holding", t.text)
			return
		}
	}
	switch {
	case table == "":
		l.add(Error, l.src, c.at, `it is not known in which table this address is: give the list a column for table, or points_file a table = "holding" for all`)
	case !slices.Contains(registerKeys, table):
		l.errorAt(l.raw.Table.at, "%q is no register table: coil, discrete, input or holding", table)
	case !l.raw.Base.within(l.binder, 0, 1, "base"):
	default:
		p.unplaced = false
		set(table, c, n-l.raw.Base.V)
	}
}

// tableWords are what lists call the tables.
var tableWords = map[string]string{
	"coil": "coil", "coils": "coil", "co": "coil", "do": "coil", "0x": "coil", "0xxxx": "coil", "digital output": "coil",
	"discrete": "discrete", "discrete input": "discrete", "discrete inputs": "discrete", "di": "discrete", "1x": "discrete", "1xxxx": "discrete", "digital input": "discrete",
	"input": "input", "input register": "input", "input registers": "input", "ir": "input", "ai": "input", "3x": "input", "3xxxx": "input",
	"holding": "holding", "holding register": "holding", "holding registers": "holding", "hr": "holding", "ao": "holding", "4x": "holding", "4xxxx": "holding",
}

// whole reads a whole number: 100, 0x64.
func (l *pointList) whole(c *cell) (int64, bool) {
	digits, base := c.text, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(digits), "0x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseInt(digits, base, 64)
	if err != nil {
		l.add(Error, l.src, c.at, "%q is no whole number", c.text)
	}
	return n, err == nil
}

// setNumber sets a number with a point or a comma; what is none stays text.
func (l *pointList) setNumber(row []cell, key string, set func(string, *cell, any)) {
	c := l.get(row, key)
	if c == nil {
		return
	}
	dotted := *c
	if strings.Count(c.text, ",") == 1 && !strings.Contains(c.text, ".") {
		dotted.text = strings.Replace(c.text, ",", ".", 1)
	}
	f, err := strconv.ParseFloat(dotted.text, 64)
	if err != nil {
		set(key, &dotted, dotted.text)
		return
	}
	set(key, &dotted, f)
}

// iecTypes are the types of IEC 61131-3, as PLCs have them.
var iecTypes = map[string]string{
	"BOOL": "bool", "SINT": "i8l", "USINT": "u8l", "BYTE": "u8l", "INT": "i16", "UINT": "u16", "WORD": "u16", "DINT": "i32", "UDINT": "u32", "DWORD": "u32",
	"LINT": "i64", "ULINT": "u64", "LWORD": "u64", "REAL": "f32", "LREAL": "f64",
}

// typeOf translates a type: by the table that was given, then as PLCs call
// theirs, then as other programs do. STRING[20] is string(20).
func (l *pointList) typeOf(c *cell) string {
	for _, w := range l.raw.Types.V {
		if strings.EqualFold(w.key, c.text) {
			return w.value.V
		}
	}
	upper := strings.ToUpper(c.text)
	if t := iecTypes[upper]; t != "" {
		return t
	}
	if strings.HasPrefix(upper, "STRING") {
		return strings.NewReplacer("[", "(", "]", ")").Replace(strings.ToLower(c.text))
	}
	if t := typeAliases[strings.ToLower(c.text)]; t != "" {
		return t
	}
	return c.text
}

// writeWords say whether a point may be written.
var writeWords = map[string]bool{
	"yes": true, "y": true, "true": true, "1": true, "x": true, "rw": true, "r/w": true, "w": true, "wr": true, "ja": true, "j": true, "read/write": true,
	"no": false, "n": false, "false": false, "0": false, "-": false, "r": false, "ro": false, "nein": false, "read": false,
}

// setLists sets what is more than one value: sentinels, names, limits.
func (l *pointList) setLists(row []cell, p *node, set func(string, *cell, any)) {
	if c := l.get(row, "invalid"); c != nil {
		var items []*node
		for _, f := range strings.FieldsFunc(c.text, func(r rune) bool { return strings.ContainsRune(" |/;", r) }) {
			if n, ok := l.whole(&cell{f, c.at}); ok {
				items = append(items, &node{src: l.src, key: c.at, val: c.at, value: n})
			}
		}
		if items != nil {
			set("invalid", c, nil)
			p.keys["invalid"].items = items
		}
	}
	if c := l.get(row, "enum"); c != nil {
		set("enum", c, nil)
		l.fillEnum(p.keys["enum"], c)
	}
	if c := l.get(row, "write"); c != nil {
		writable, known := writeWords[strings.ToLower(c.text)]
		if !known {
			l.add(Error, l.src, c.at, "%q does not say whether it may be written: yes or no", c.text)
		}
		set("write", c, writable)
		l.setLimits(row, p)
	}
	l.setRange(row, p, set)
}

// setRange makes a range of its two ends, of which one may be missing.
func (l *pointList) setRange(row []cell, p *node, set func(string, *cell, any)) {
	low, high := l.get(row, "range_min"), l.get(row, "range_max")
	one := cmp.Or(low, high)
	if one == nil {
		return
	}
	ends := []*node{{src: l.src, key: one.at, val: one.at, value: math.Inf(-1)}, {src: l.src, key: one.at, val: one.at, value: math.Inf(1)}}
	for i, key := range []string{"range_min", "range_max"} {
		l.setNumber(row, key, func(_ string, c *cell, value any) {
			ends[i] = &node{src: l.src, key: c.at, val: c.at, value: value, spelled: c.text}
		})
	}
	set("range", one, nil)
	p.keys["range"].items = ends
}

// fillEnum reads 0=off|1=auto.
func (l *pointList) fillEnum(n *node, c *cell) {
	n.keys = make(map[string]*node)
	for _, pair := range strings.FieldsFunc(c.text, func(r rune) bool { return r == '|' || r == ';' || r == '/' }) {
		number, name, ok := strings.Cut(pair, "=")
		if !ok {
			l.add(Error, l.src, c.at, "%q names no number: write 0=off|1=auto", pair)
			continue
		}
		number = strings.TrimSpace(number)
		n.keys[number] = &node{src: l.src, key: c.at, val: c.at, value: strings.TrimSpace(name)}
		n.order = append(n.order, number)
	}
}

// setLimits makes a table of write where there are limits.
func (l *pointList) setLimits(row []cell, p *node) {
	w := p.keys["write"]
	for _, key := range []string{"min", "max"} {
		if w.value == true || w.keys != nil {
			l.setNumber(row, key, func(_ string, c *cell, value any) {
				if w.keys == nil {
					w.keys, w.value = make(map[string]*node), nil
				}
				w.keys[key] = &node{src: l.src, key: c.at, val: c.at, value: value, spelled: c.text}
				w.order = append(w.order, key)
			})
		}
	}
}
