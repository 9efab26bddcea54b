package access

import (
	"fmt"
	"strings"

	"edgegateway/broker"
)

var grants = map[string]Grant{"read": Read, "write": Write, "readwrite": Read | Write, "deny": Deny}

// ParseACL reads an ACL file as mosquitto has it: "user NAME" begins the rules
// of a user, "topic [read|write|readwrite|deny] FILTER" is one, before the
// first user for clients without a name, and "pattern …" is one for everybody,
// with %u and %c. file is what faults call it. The Rules are nil if there is a
// fault, and not nil if there is none.
func ParseACL(file string, data []byte) (Rules, []*Fault) {
	p := aclParser{file: file, rules: make(Rules), user: Anonymous}
	for line := range strings.SplitSeq(string(data), "\n") {
		p.line++
		p.text = line
		p.parse(strings.TrimSpace(line))
	}
	if p.faults != nil {
		return nil, p.faults
	}
	return p.rules, nil
}

type aclParser struct {
	file, text, user string
	line             int
	rules            Rules
	faults           []*Fault
}

// wrong notes a fault of part of the present line.
func (p *aclParser) wrong(part, format string, args ...any) {
	at := max(strings.Index(p.text, part), 0)
	p.faults = append(p.faults, &Fault{File: p.file, Line: p.line, Column: at + 1, Width: len(part), What: fmt.Sprintf(format, args...)})
}

func (p *aclParser) parse(line string) {
	if line == "" || line[0] == '#' {
		return
	}
	word, rest := cutWord(line)
	switch word {
	case "user":
		if wrong := WrongName(rest); wrong != "" {
			p.wrong(line, "the user name %q %s", rest, wrong)
		}
		p.user = rest
	case "topic":
		p.rule(line, rest, p.user, false)
	case "pattern":
		p.rule(line, rest, Everybody, true)
	default:
		p.wrong(word, `%q begins no line of an ACL file; there is "user NAME", "topic [read|write|readwrite|deny] FILTER" and "pattern [read|write|readwrite|deny] FILTER"`, word)
	}
}

// rule reads what stands behind "topic" or "pattern".
func (p *aclParser) rule(line, rest, user string, pattern bool) {
	r := Rule{Filter: rest, Grant: Read | Write, Pattern: pattern}
	if word, filter := cutWord(rest); filter != "" {
		grant, ok := grants[word]
		if !ok {
			p.wrong(rest, "%q is neither read, write, readwrite nor deny; of a filter with spaces say which: topic readwrite %s", word, rest)
			return
		}
		r.Filter, r.Grant = filter, grant
	}
	if rest == "" {
		p.wrong(line, "the filter is missing")
		return
	}
	if err := broker.ValidFilter(r.Filter); err != nil {
		p.wrong(r.Filter, "%v", err)
		return
	}
	if strings.HasPrefix(r.Filter, "$share/") {
		p.wrong(r.Filter, "a right is one to topics; leave $share/GROUP/ out")
		return
	}
	p.rules[user] = append(p.rules[user], r)
}

// cutWord splits off the first word.
func cutWord(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}
