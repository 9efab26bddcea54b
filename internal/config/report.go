package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Severity says whether a gateway may run with what an Issue is about.
type Severity uint8

const (
	Error   Severity = iota // it may not
	Warning                 // it may, but likely not as meant
)

func (s Severity) String() string { return [...]string{"error", "warning"}[s] }

// MarshalText makes JSON say what String says.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// An Issue is one thing that is wrong, and where.
type Issue struct {
	Severity Severity `json:"severity"`
	File     string   `json:"file,omitempty"` // as a person would name it from the configuration folder
	Line     int      `json:"line,omitempty"` // from 1; 0 when the whole file is meant
	Column   int      `json:"column,omitempty"`
	Message  string   `json:"message"`
	Source   string   `json:"source,omitempty"` // the line

	file       int // place of the file in the order of reading
	start, end int // bytes of Source that the caret marks
}

// A Report is all that is wrong with a configuration, in the order of its
// files. Its zero value is an empty report.
type Report struct {
	Issues []Issue
	seen   map[Issue]bool
}

// Errors returns how many issues forbid running.
func (r *Report) Errors() int { return r.count(Error) }

// Warnings returns how many issues do not.
func (r *Report) Warnings() int { return r.count(Warning) }

func (r *Report) count(s Severity) int {
	n := 0
	for _, i := range r.Issues {
		if i.Severity == s {
			n++
		}
	}
	return n
}

// Err returns nil, or an error with the first error of the report and how
// many more there are.
func (r *Report) Err() error {
	n := r.Errors()
	if n == 0 {
		return nil
	}
	first := r.Issues[slices.IndexFunc(r.Issues, func(i Issue) bool { return i.Severity == Error })]
	if n == 1 {
		return fmt.Errorf("%s%s", first.where(), first.Message)
	}
	return fmt.Errorf("%s%s (and %d more)", first.where(), first.Message, n-1)
}

// add files an issue about s in src. Devices made from one template say the
// same of the same place; it is kept once.
func (r *Report) add(sev Severity, src *source, s span, format string, args ...any) {
	i := Issue{Severity: sev, Message: fmt.Sprintf(format, args...)}
	if src != nil {
		src.locate(&i, s)
	}
	if r.seen == nil {
		r.seen = make(map[Issue]bool)
	}
	if r.seen[i] {
		return
	}
	r.seen[i] = true
	r.Issues = append(r.Issues, i)
}

func (r *Report) sort() {
	slices.SortStableFunc(r.Issues, func(a, b Issue) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column), cmp.Compare(a.Severity, b.Severity))
	})
}

func (i *Issue) where() string {
	switch {
	case i.File == "":
		return ""
	case i.Line == 0:
		return i.File + ": "
	}
	return fmt.Sprintf("%s:%d:%d: ", i.File, i.Line, i.Column)
}

// String is the issue as a compiler would print it, with its source line and
// a caret under the words that are wrong.
func (i *Issue) String() string {
	head := fmt.Sprintf("%s%s: %s", i.where(), i.Severity, i.Message)
	if i.Line == 0 {
		return head
	}
	number := strconv.Itoa(i.Line)
	pad := strings.Repeat(" ", len(number))
	return fmt.Sprintf("%s\n  %s | %s\n  %s | %s", head, number, i.Source, pad, i.caret())
}

// caret draws the line under Source. Tabs stay tabs so that both lines move
// alike, and wide characters take two columns.
func (i *Issue) caret() string {
	var b strings.Builder
	for _, c := range i.Source[:i.start] {
		if c == '\t' {
			b.WriteByte('\t')
			continue
		}
		b.WriteString(strings.Repeat(" ", columns(c)))
	}
	n := 0
	for _, c := range i.Source[i.start:i.end] {
		n += columns(c)
	}
	return b.String() + strings.Repeat("^", max(n, 1))
}

// columns returns how many columns of a terminal a character takes.
func columns(c rune) int {
	switch {
	case unicode.In(c, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.In(c, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana),
		c >= 0xff01 && c <= 0xff60, c >= 0x3000 && c <= 0x303f, c >= 0x1f300 && c <= 0x1faff:
		return 2
	}
	return 1
}

// WriteTo writes the report for people, one issue after the other.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for k := range r.Issues {
		n, err := fmt.Fprintln(w, r.Issues[k].String())
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// Summary counts in words: "2 errors, 1 warning".
func (r *Report) Summary() string {
	return plural(r.Errors(), "error") + ", " + plural(r.Warnings(), "warning")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// MarshalJSON gives programs {"errors":…,"warnings":…,"issues":[…]}.
func (r *Report) MarshalJSON() ([]byte, error) {
	issues := r.Issues
	if issues == nil {
		issues = []Issue{}
	}
	return json.Marshal(struct {
		Errors   int     `json:"errors"`
		Warnings int     `json:"warnings"`
		Issues   []Issue `json:"issues"`
	}{r.Errors(), r.Warnings(), issues})
}

// A source is one file that was read.
type source struct {
	name  string // for people: relative to the configuration folder
	order int    // of reading, which is the order of reports
	data  string
}

// locate fills in where s is. The line ends before \r or \n; a span over
// several lines is marked in its first.
func (f *source) locate(i *Issue, s span) {
	i.File, i.file = f.name, f.order
	if len(f.data) == 0 {
		return
	}
	start := max(min(s.start, len(f.data)), 0) // the decoder may say -1
	begin := strings.LastIndexByte(f.data[:start], '\n') + 1
	line, _, _ := strings.Cut(f.data[begin:], "\n")
	line = strings.TrimSuffix(line, "\r")
	i.start = min(start-begin, len(line))
	i.end = max(min(s.end-begin, len(line)), i.start)
	i.Line = strings.Count(f.data[:begin], "\n") + 1
	i.Column = utf8.RuneCountInString(line[:i.start]) + 1
	if begin == 0 && strings.HasPrefix(line, "\ufeff") {
		i.Column = max(i.Column-1, 1)
	}
	i.Source, i.start, i.end = mask(line, i.start, i.end)
}

// passwordValue finds what stands behind the key of a password, however incomplete
// its line is, a text behind a key that is called like one, and the password in a
// URL.
var passwordValue = regexp.MustCompile(`(?i)(?:pas+wor[dt]|sas[_-]?key)["']?\s*=\s*("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s"',}]+)` +
	`|(?:pas+[a-z]*|p[as]*w[a-z]*|secret|token)["']?\s*=\s*("(?:[^"\\]|\\.)*"?|'[^']*'?)` +
	`|://[^/\s:@"']*:([^\s"']+)@`)

// mask hides passwords that are written out in a line, and moves the marked
// bytes accordingly.
func mask(line string, start, end int) (masked string, newStart, newEnd int) {
	var b strings.Builder
	from := 0
	newStart, newEnd = start, end
	for _, m := range passwordValue.FindAllStringSubmatchIndex(line, -1) {
		if strings.HasPrefix(line[m[0]:], "passwords") { // names a file
			continue
		}
		low, high := max(m[2], m[4], m[6]), max(m[3], m[5], m[7]) // all groups but one are absent: -1
		if _, _, isRef := reference(strings.Trim(line[low:high], `"'`)); isRef {
			continue
		}
		b.WriteString(line[from:low])
		newStart = shift(newStart, start, low, high, b.Len(), false)
		newEnd = shift(newEnd, end, low, high, b.Len(), true)
		b.WriteString(hidden)
		from = high
	}
	b.WriteString(line[from:])
	return b.String(), newStart, newEnd
}

// shift returns where a position is once bytes low to high of its line have
// become the mask at offset at: those within go to its start, or to its end
// if last is set.
func shift(now, pos, low, high, at int, last bool) int {
	switch {
	case pos <= low:
		return now
	case pos >= high:
		return at + len(hidden) + pos - high
	case last:
		return at + len(hidden)
	}
	return at
}
