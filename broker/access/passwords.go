package access

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Fault is something wrong in a file, and where.
type Fault struct {
	File         string
	Line, Column int // from 1; of the first byte
	Width        int // bytes that are meant
	What         string
}

func (f *Fault) Error() string { return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.What) }

// Passwords are what a password file holds. They do not change.
type Passwords struct {
	users map[string]hash
	names []string // in order, for the cost of unknown names
}

// Users lists who has a password, in order.
func (p *Passwords) Users() []string {
	if p == nil {
		return nil
	}
	return slices.Clone(p.names)
}

// Has says whether user has a password.
func (p *Passwords) Has(user string) bool {
	if p == nil {
		return false
	}
	_, ok := p.users[user]
	return ok
}

// String says nothing that is secret.
func (p *Passwords) String() string { return fmt.Sprintf("passwords of %q", p.Users()) }

// ParsePasswords reads a file of lines USER:HASH as mosquitto has it, with
// $7$ and $6$ hashes; a # begins a comment. file is what faults call it, and
// where they say to put things right. The Passwords are nil if there is a
// fault.
func ParsePasswords(file string, data []byte) (*Passwords, []*Fault) {
	p := &Passwords{users: make(map[string]hash)}
	lines := make(map[string]int)
	var faults []*Fault
	n := 0
	for line := range strings.SplitSeq(string(data), "\n") {
		n++
		user, text, found := splitUser(line)
		wrong := func(format string, args ...any) {
			faults = append(faults, &Fault{File: file, Line: n, Column: max(strings.Index(line, user), 0) + 1, Width: len(user), What: fmt.Sprintf(format, args...)})
		}
		switch h, err := parseHash(text); {
		case user == "" && !found:
		case !found:
			user = "" // it may be a password that stands alone
			wrong("this line is no USER:HASH; take it out, or begin it with # for a comment")
		case WrongUser(user) != "":
			wrong("the user name %q %s", user, WrongUser(user))
		case lines[user] > 0:
			wrong("user %q is in line %d, too; take one of them out", user, lines[user])
		case err != nil:
			wrong("the password of %q %v; set it again: gateway passwd --file %s %s", user, err, quoted(file), quoted(user))
		default:
			p.users[user] = h
			lines[user] = n
		}
	}
	if faults != nil {
		return nil, faults
	}
	p.names = slices.Sorted(maps.Keys(p.users))
	return p, nil
}

// splitUser splits a line at its colon; user is "" for a line that says
// nothing.
func splitUser(line string) (user, hash string, found bool) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", false
	}
	user, hash, found = strings.Cut(line, ":")
	return strings.TrimSpace(user), strings.TrimSpace(hash), found
}

// quoted is s as a shell takes it.
func quoted(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./@", r)
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// WrongName says what keeps a name from being a user's; "" is nothing.
func WrongName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case name == Anonymous || name == Everybody:
		return "means others here: " + Anonymous + " is who gives no name, " + Everybody + " is everybody"
	case strings.HasPrefix(name, "bridge:"):
		return "begins with bridge:, which is kept for the gateway's own bridges"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "holds a control character"
	case !utf8.ValidString(name):
		return "is not UTF-8"
	case len(name) > 256:
		return "is longer than 256 bytes"
	}
	return ""
}

// WrongUser says what keeps a name out of a password file; "" is nothing.
func WrongUser(name string) string {
	switch {
	case strings.Contains(name, ":"):
		return "holds a colon, which ends the name in the file"
	case strings.HasPrefix(name, "#"):
		return "begins with #, which makes the line a comment"
	case name != strings.TrimSpace(name):
		return "begins or ends with a space"
	}
	return WrongName(name)
}

// SetPassword returns the file with user's password being password; all other
// lines stay as they are.
func SetPassword(data []byte, user string, password []byte) ([]byte, error) {
	h, err := newHash(password)
	if err != nil {
		return nil, fmt.Errorf("hash the password: %w", err)
	}
	edited, _ := edit(data, user, user+":"+h.String())
	return edited, nil
}

// DeleteUser returns the file without user, and whether they were there.
func DeleteUser(data []byte, user string) ([]byte, bool) { return edit(data, user, "") }

// edit puts line in the place of user's, "" for none, or at the end.
func edit(data []byte, user, line string) (edited []byte, found bool) {
	for old := range strings.Lines(string(data)) {
		name, _, ok := splitUser(old)
		switch {
		case !ok || name != user:
			edited = append(edited, old...)
		case line != "" && !found:
			edited = append(edited, line+"\n"...)
		}
		found = found || ok && name == user
	}
	if line == "" || found {
		return edited, found
	}
	if len(edited) > 0 && edited[len(edited)-1] != '\n' {
		edited = append(edited, '\n')
	}
	return append(edited, line+"\n"...), false
}
