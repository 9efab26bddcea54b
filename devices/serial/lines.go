package serial

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"edgegateway/devices"
)

// A Field is where in a message of text a point is found.
type Field struct {
	// Sentence is which line. With NMEA checksums: the formatter of a
	// sentence whoever talks ("MWV"), or a whole address field ("WIMWV").
	// Without: what the first field of the line must be. "" is any message.
	Sentence string

	// Index counts from 1: the data fields after the sentence's name, as the
	// NMEA documents do, or all fields of any line. It is 0 if Key is set.
	Index int

	// Key is the name that the value has in its message: the key in front of
	// = or :, the path into a JSON object, the group of an expression, the
	// label or the OBIS code. A value with an OBIS code may have its unit
	// behind an asterisk, and is none if the message has another.
	Key string
}

func (f Field) String() string {
	where := "field " + strconv.Itoa(f.Index)
	if f.Key != "" {
		where = "field " + f.Key
	}
	if f.Sentence == "" {
		return where
	}
	return f.Sentence + " " + where
}

// The ways to read a line.
const (
	ParseFields = ""         // separated fields, or KEY=VALUE anywhere between them
	ParseCSV    = "csv"      // separated fields, which may be in quotes
	ParseKeys   = "keyvalue" // KEY=VALUE or KEY:VALUE, separated
	ParseJSON   = "json"     // one JSON object
	ParseRegexp = "regexp"   // the named groups of an expression
)

// Parses lists them as a configuration does.
var Parses = []string{ParseCSV, ParseKeys, ParseJSON, ParseRegexp}

const defaultMaxLine = 512 // bytes; NMEA allows 82, real ones have up to 100

// Lines is text in lines.
//
// With checksums, only a line that proves itself yields readings. Without them
// nothing can be proven, so that what may be a part of a line is thrown away:
// all before the first line end after opening, a line with a hole of half a
// second in it and what follows the hole, one that is too long, and one that
// holds control characters or is no UTF-8; and one that is no JSON object or
// that the expression does not match as a whole, where such is expected.
type Lines struct {
	Checksum  string         // "nmea", or "" for none or Sum
	Sum       *LineSum       // of another kind; nil: none
	Delimiter string         // what ends a line; "": LF or CRLF
	MaxLine   int            // longest line in bytes, without its end; 0: 512, 4096 for JSON
	Parse     string         // ParseFields …; "" with an NMEA checksum
	Separator string         // between fields; "": a comma, for keys also semicolons and blanks; " ": any number of blanks
	Pattern   *regexp.Regexp // of ParseRegexp; it must match the whole line
}

// A LineSum is a checksum that stands in hexadecimal digits at the end of a line.
type LineSum struct {
	Sum
	From   int    // the first byte of the line that it covers; those before are not read
	Behind string // what stands between the last that it covers and its digits: "*"
	Little bool   // its low byte comes first
}

// Equal reports whether two are the same; either may be nil.
func (s *LineSum) Equal(o *LineSum) bool {
	return s == o || s != nil && o != nil && *s == *o
}

// Append appends the checksum of a line, with what stands before it.
func (s *LineSum) Append(line []byte) []byte {
	sum := s.Sum.Append(nil, line[min(s.From, len(line)):], s.Little)
	return fmt.Appendf(line, "%s%X", s.Behind, sum)
}

// cut proves a line and returns what its checksum covers.
func (s *LineSum) cut(line []byte) ([]byte, error) {
	at := len(line) - 2*s.size()
	if at < 0 || !bytes.HasSuffix(line[:at], []byte(s.Behind)) || at-len(s.Behind) <= s.From {
		return nil, fmt.Errorf("no checksum at the end of %q", clip(line))
	}
	body, digits := line[:at-len(s.Behind)], line[at:]
	if given, err := hex.DecodeString(string(digits)); err != nil {
		return nil, fmt.Errorf("checksum %q of %q is not hexadecimal", digits, clip(body))
	} else if want := s.Sum.Append(nil, body[s.From:], s.Little); !bytes.Equal(given, want) {
		return nil, fmt.Errorf("checksum of %q is %X, the line says %s", clip(body), want, digits)
	}
	return body[s.From:], nil
}

// Check implements Framing.
func (l Lines) Check() error {
	nmea := l.Checksum == "nmea"
	if l.Sum != nil {
		if err := l.Sum.Check(); err != nil {
			return err
		}
	}
	switch {
	case l.Sum != nil && (nmea || l.Sum.From < 0):
		return errors.New("a line has one checksum, which begins within it")
	case nmea && l.Delimiter != "":
		return errors.New("NMEA sentences end with CR LF; leave the delimiter out")
	case l.MaxLine < 0 || l.MaxLine > 1<<16:
		return fmt.Errorf("a line of at most %d bytes; there may be 65536", l.MaxLine)
	case l.Checksum != "" && !nmea:
		return fmt.Errorf("checksum %q is not known: use \"nmea\" or leave it out", l.Checksum)
	case l.Parse != ParseFields && !slices.Contains(Parses, l.Parse):
		return fmt.Errorf("lines cannot be parsed as %q; there is %s", l.Parse, strings.Join(Parses, ", "))
	case nmea && (l.Parse != ParseFields || l.Separator != ""):
		return errors.New("NMEA sentences are parsed as such; leave out parse and separator, or the checksum")
	case (l.Parse == ParseRegexp) != (l.Pattern != nil):
		return errors.New("a pattern and the parsing as \"regexp\" belong together")
	case l.Separator != "" && (l.Parse == ParseJSON || l.Parse == ParseRegexp):
		return fmt.Errorf("lines that are parsed as %q have no separator", l.Parse)
	}
	return nil
}

// CheckSource implements Framing.
func (l Lines) CheckSource(src devices.Source) error {
	f, ok := src.(Field)
	switch {
	case !ok:
		return fmt.Errorf("%v is not a field of a line", src)
	case f.Key == "" && f.Index < 1:
		return fmt.Errorf("field %d: fields count from 1", f.Index)
	case f.Key != "" && f.Index != 0:
		return fmt.Errorf("has both a field number (%d) and a key (%s): use one", f.Index, f.Key)
	case f.Key != "" && l.Parse == ParseCSV:
		return fmt.Errorf("field %q: lines of csv have numbered fields only", f.Key)
	case f.Key == "" && l.named():
		return fmt.Errorf("field %d: lines that are parsed as %q have named fields only", f.Index, l.Parse)
	case f.Sentence != "" && l.named():
		return fmt.Errorf("lines that are parsed as %q are not told apart by a word; their sentence is \"*\"", l.Parse)
	case l.Parse == ParseRegexp && l.Pattern.SubexpIndex(f.Key) < 0:
		return fmt.Errorf("the pattern has no group (?P<%s>…)", f.Key)
	}
	return nil
}

// named reports whether the fields of a line have names and no order.
func (l Lines) named() bool {
	return l.Parse == ParseKeys || l.Parse == ParseJSON || l.Parse == ParseRegexp
}

func (l Lines) decoder(out *outlet) decoder {
	usual := defaultMaxLine
	if l.Parse == ParseJSON {
		usual = 8 * defaultMaxLine
	}
	nmea := l.Checksum == "nmea"
	proven := nmea || l.Sum != nil
	return &lineDecoder{
		Lines: l, nmea: nmea, out: out,
		cut: cutter{end: l.Delimiter, max: cmp.Or(l.MaxLine, usual), skipping: !proven, strict: !proven},
	}
}

// A lineDecoder reads one stream of lines.
type lineDecoder struct {
	Lines
	nmea   bool
	out    *outlet
	cut    cutter
	fields [][]byte // room for those of one line
	echoes [][]byte // lines that are questions, heard by an adapter that hears itself
}

// ignore passes over the questions that are asked.
func (d *lineDecoder) ignore(polls []Poll) {
	for _, p := range polls {
		d.echoes = append(d.echoes, bytes.TrimRight(p.Send, "\r\n"+d.Delimiter))
	}
}

func (d *lineDecoder) feed(data []byte) {
	for line := range d.cut.lines(data) {
		if slices.ContainsFunc(d.echoes, func(q []byte) bool { return bytes.Equal(line, q) }) {
			continue
		}
		if m, err := d.parse(line); err != nil {
			d.out.bad(err.Error())
		} else {
			d.out.good(m)
		}
	}
	d.tellLost()
}

func (d *lineDecoder) silence() {
	d.cut.silence()
	d.tellLost()
}

func (d *lineDecoder) tellLost() {
	for ; d.cut.lost > 0; d.cut.lost-- {
		d.out.bad("a line was too long or broke off")
	}
}

// parse reads a line, proven if it can be.
func (d *lineDecoder) parse(line []byte) (message, error) {
	if d.nmea {
		s, err := parseNMEA(line, d.fields)
		d.fields = s.fields
		return nmeaLine{s}, err
	}
	if d.Sum != nil {
		body, err := d.Sum.cut(line)
		if err != nil {
			return nil, err
		}
		line = body
	}
	if !isText(line) {
		return nil, fmt.Errorf("not text: %q", clip(line))
	}
	switch d.Parse {
	case ParseJSON:
		return parseJSON(line)
	case ParseRegexp:
		return d.match(line)
	case ParseCSV:
		fields, err := splitQuoted(line, cmp.Or(d.Separator, ","))
		return fieldLine(fields), err
	case ParseKeys:
		d.fields = appendWords(d.fields[:0], line, d.Separator)
	default:
		d.fields = appendSplit(d.fields[:0], line, cmp.Or(d.Separator, ","))
	}
	for i, f := range d.fields {
		d.fields[i] = bytes.TrimSpace(f)
	}
	return fieldLine(d.fields), nil
}

// A nmeaLine is a sentence whose checksum is right.
type nmeaLine struct{ sentence }

func (s nmeaLine) holds(src devices.Source) bool {
	f := src.(Field)
	return f.Sentence == "" || s.is(f.Sentence)
}

func (s nmeaLine) value(src devices.Source) ([]byte, error) {
	f := src.(Field)
	raw, err := fieldOf(s.fields, f)
	if err == nil && s.invalid(f.Index) {
		return nil, &NoValue{Field: f, Invalid: true}
	}
	return raw, err
}

// A fieldLine is the fields of a line without a checksum.
type fieldLine [][]byte

func (l fieldLine) holds(src devices.Source) bool {
	f := src.(Field)
	return f.Sentence == "" || len(l) > 0 && string(l[0]) == f.Sentence
}

func (l fieldLine) value(src devices.Source) ([]byte, error) {
	f := src.(Field)
	if f.Sentence != "" {
		l = l[1:]
	}
	return fieldOf(l, f)
}

// fieldOf returns the text of a field, which lives as long as its line.
func fieldOf(fields [][]byte, f Field) ([]byte, error) {
	var raw []byte
	switch {
	case f.Key != "":
		raw = byKey(fields, f.Key)
	case f.Index <= len(fields):
		raw = fields[f.Index-1]
	}
	if len(raw) == 0 {
		return nil, &NoValue{Field: f}
	}
	return raw, nil
}

func byKey(fields [][]byte, key string) []byte {
	for _, f := range fields {
		i := bytes.IndexAny(f, "=:")
		if i >= 0 && string(bytes.TrimSpace(f[:i])) == key {
			return bytes.TrimSpace(f[i+1:])
		}
	}
	return nil
}

// A groupLine is what the groups of an expression matched.
type groupLine struct {
	pattern *regexp.Regexp
	groups  [][]byte
}

// match takes a line that the pattern matches from its first byte to its last.
func (d *lineDecoder) match(line []byte) (message, error) {
	groups := d.Pattern.FindSubmatch(line)
	if groups == nil || len(groups[0]) != len(line) {
		return nil, fmt.Errorf("the pattern does not match the whole line %q", clip(line))
	}
	return groupLine{d.Pattern, groups}, nil
}

func (groupLine) holds(devices.Source) bool { return true }

func (l groupLine) value(src devices.Source) ([]byte, error) {
	f := src.(Field)
	raw := bytes.TrimSpace(l.groups[l.pattern.SubexpIndex(f.Key)])
	if len(raw) == 0 {
		return nil, &NoValue{Field: f}
	}
	return raw, nil
}

// A jsonLine is one object; its numbers are as they were written.
type jsonLine map[string]any

func parseJSON(line []byte) (message, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	var object map[string]any
	if err := dec.Decode(&object); err != nil || object == nil {
		return nil, fmt.Errorf("no JSON object: %q", clip(line))
	}
	if rest := bytes.TrimSpace(line[dec.InputOffset():]); len(rest) > 0 {
		return nil, fmt.Errorf("more than one JSON object: %q", clip(line))
	}
	return jsonLine(object), nil
}

func (jsonLine) holds(devices.Source) bool { return true }

// value follows the path; a key that holds dots itself wins over a path.
func (l jsonLine) value(src devices.Source) ([]byte, error) {
	f := src.(Field)
	v, ok := l[f.Key]
	if !ok {
		v = follow(map[string]any(l), strings.Split(f.Key, "."))
	}
	text := jsonText(v)
	if len(text) == 0 {
		return nil, &NoValue{Field: f}
	}
	return text, nil
}

// follow goes down objects by key and arrays by index, counted from 0.
func follow(v any, path []string) any {
	for _, step := range path {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

func jsonText(v any) []byte {
	switch v := v.(type) {
	case json.Number:
		return []byte(v)
	case string:
		return []byte(v)
	case bool:
		return strconv.AppendBool(nil, v)
	}
	return nil
}

// A NoValue is the error of a field that a good message leaves empty or lacks.
type NoValue struct {
	Field   Field
	Invalid bool   // there is a value, but the message itself says that it is not valid
	Unit    string // there is a value, but in this unit
	Bare    bool   // there is a value, but without the unit that it must have
}

func (e *NoValue) Error() string {
	switch {
	case e.Invalid:
		return fmt.Sprintf("the device marks %v as invalid", e.Field)
	case e.Unit != "":
		return fmt.Sprintf("the device gives %v in %q", e.Field, e.Unit)
	case e.Bare:
		return fmt.Sprintf("the device gives no unit with %v; leave *unit out of the field if you know it", e.Field)
	}
	return fmt.Sprintf("no value in %v", e.Field)
}

// Cause is what a payload says in place of the value.
func (e *NoValue) Cause() string {
	switch {
	case e.Invalid:
		return "marked invalid"
	case e.Unit != "":
		return "in another unit"
	case e.Bare:
		return "without a unit"
	}
	return "no value"
}

// appendFields splits at commas.
func appendFields(dst [][]byte, line []byte) [][]byte { return appendSplit(dst, line, ",") }

// appendSplit splits at sep; at " " as people do, at any number of blanks.
func appendSplit(dst [][]byte, line []byte, sep string) [][]byte {
	if sep == " " {
		return append(dst, bytes.Fields(line)...)
	}
	for {
		i := bytes.Index(line, []byte(sep))
		if i < 0 {
			return append(dst, line)
		}
		dst, line = append(dst, line[:i]), line[i+len(sep):]
	}
}

// appendWords splits pairs of key and value: at sep, or without one at commas,
// semicolons and blanks.
func appendWords(dst [][]byte, line []byte, sep string) [][]byte {
	if sep != "" {
		return appendSplit(dst, line, sep)
	}
	between := func(r rune) bool { return r == ',' || r == ';' || r == ' ' || r == '\t' }
	return append(dst, bytes.FieldsFunc(line, between)...)
}

// splitQuoted splits a line of CSV (RFC 4180): a field in double quotes may
// hold separators, and quotes doubled.
func splitQuoted(line []byte, sep string) ([][]byte, error) {
	if bytes.IndexByte(line, '"') < 0 {
		fields := appendSplit(nil, line, sep)
		for i, f := range fields {
			fields[i] = bytes.TrimSpace(f)
		}
		return fields, nil
	}
	var fields [][]byte
	for rest := line; ; {
		field, tail, err := cutQuoted(bytes.TrimLeft(rest, " \t"), sep)
		if err != nil {
			return nil, fmt.Errorf("%w in %q", err, clip(line))
		}
		fields = append(fields, field)
		if tail == nil {
			return fields, nil
		}
		rest = tail
	}
}

// cutQuoted takes the first field of rest; tail is nil if it was the last.
func cutQuoted(rest []byte, sep string) (field, tail []byte, err error) {
	if len(rest) == 0 || rest[0] != '"' {
		field, tail, found := bytes.Cut(rest, []byte(sep))
		if bytes.IndexByte(field, '"') >= 0 {
			return nil, nil, errors.New("a quote within a field")
		}
		if !found {
			tail = nil
		}
		return bytes.TrimSpace(field), tail, nil
	}
	for rest = rest[1:]; ; {
		i := bytes.IndexByte(rest, '"')
		if i < 0 {
			return nil, nil, errors.New("a quote that is not closed")
		}
		field, rest = append(field, rest[:i]...), rest[i+1:]
		if len(rest) == 0 || rest[0] != '"' {
			break
		}
		field, rest = append(field, '"'), rest[1:]
	}
	rest = bytes.TrimLeft(rest, " \t")
	if len(rest) == 0 {
		return field, nil, nil
	}
	after, ok := bytes.CutPrefix(rest, []byte(sep))
	if !ok {
		return nil, nil, errors.New("text behind a closing quote")
	}
	return field, after, nil
}

func isText(line []byte) bool {
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return utf8.Valid(line)
}

// clip shortens a line for an error.
func clip(line []byte) []byte { return line[:min(len(line), 60)] }
