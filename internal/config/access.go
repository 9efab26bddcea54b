package config

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"edgegateway/broker"
	"edgegateway/broker/access"
)

// rawAccess is what [broker] says of who may use it.
type rawAccess struct {
	Passwords       text            `toml:"passwords"`
	ACLFile         text            `toml:"acl_file"`
	Anonymous       boolean         `toml:"anonymous"`
	CertificateUser text            `toml:"certificate_user"`
	User            tables[rawUser] `toml:"user"`
}

type rawUser struct {
	here
	Read      texts `toml:"read"`
	Write     texts `toml:"write"`
	Deny      texts `toml:"deny"`
	ClientIDs texts `toml:"client_ids"`
}

func (*rawUser) what() string { return "a user" }

// PasswordsFile returns where a configuration has its passwords, or would
// have them if it says nothing of that. It judges nothing.
func PasswordsFile(path string, opts Options) (file string, given bool) {
	l := newLoader(opts)
	root := l.readAll(path)
	if n := root.child("broker").child("passwords"); n != nil {
		if s, ok := n.value.(string); ok {
			if v, _, ok := l.secrets.expand(l.binder, n, s, Warning); ok {
				return l.secrets.abs(v), true
			}
		}
	}
	return l.secrets.abs("passwd"), false
}

// readAccess comes after readBroker: what is the default depends on where the
// broker listens.
func (l *loader) readAccess(raw *rawBroker) {
	p := &l.cfg.Access
	p.Passwords = l.readPasswords(raw.Passwords)
	p.Anonymous = raw.Anonymous.V
	if !raw.Anonymous.set() {
		p.Anonymous = !raw.hasUsers() && !slices.ContainsFunc(l.cfg.Listen, reachable)
	}
	p.Subject = l.choice(raw.CertificateUser, "cn", "cn", "subject") == "subject"
	p.Rules = l.readACL(raw.ACLFile)
	for _, e := range raw.User.V {
		l.readUser(p, e)
	}
	l.checkAnonymous(p, raw)
	l.checkUsers(p, raw)
}

// checkAnonymous finds a broker that is open to everybody for everything.
func (l *loader) checkAnonymous(p *access.Policy, raw *rawBroker) {
	proven := raw.at.child("client_certificates") // that "require" lets nobody in without one
	open := func(at broker.Listen) bool {
		return reachable(at) && (at.TLS == nil || proven == nil || proven.value != "require")
	}
	if raw.Anonymous.set() && p.Anonymous && p.Rules == nil && slices.ContainsFunc(l.cfg.Listen, open) {
		l.errorAt(raw.Anonymous.at, "other machines can reach the broker, and without a name everybody could do everything there: take this out, or give rights: [broker.user.anonymous] read = [\"{name}/#\"]")
	}
}

// readUser reads the rights of a user.
func (l *loader) readUser(p *access.Policy, e entry[rawUser]) {
	special := e.key == access.Anonymous || e.key == access.Everybody
	if wrong := access.WrongName(e.key); wrong != "" && !special {
		l.errorKey(e.at, "the user name %q %s", e.key, wrong)
	}
	u := e.value
	if p.Rules == nil && (u.Read.set() || u.Write.set() || u.Deny.set()) {
		p.Rules = make(access.Rules)
	}
	for _, right := range []struct {
		filters texts
		grant   access.Grant
	}{{u.Deny, access.Deny}, {u.Read, access.Read}, {u.Write, access.Write}} {
		for _, t := range right.filters.V {
			if filter, ok := l.rightFilter(t); ok {
				p.Rules.Add(access.Rules{e.key: {{Filter: filter, Grant: right.grant, Pattern: true}}})
			}
		}
	}
	if u.ClientIDs.set() {
		l.readClientIDs(p, e.key, u.ClientIDs)
	}
}

// rightFilter fills the placeholders of a filter: the gateway's name now, who
// it is for when they come.
func (l *loader) rightFilter(t text) (filter string, ok bool) {
	l.topics = l.whoever()
	filter = l.filled(t.at, t.V)
	if filter == "" && t.V != "" {
		return "", false // reported
	}
	if strings.HasPrefix(filter, "$share/") {
		l.errorAt(t.at, "a right is one to topics; leave $share/GROUP/ out")
		return "", false
	}
	if err := broker.ValidFilter(filter); err != nil {
		l.errorAt(t.at, "%v", err)
		return "", false
	}
	return filter, true
}

// whoever are the placeholders of rights.
func (l *loader) whoever() map[string]string {
	return map[string]string{"name": l.cfg.Name, "user": "%u", "client_id": "%c"}
}

func (l *loader) readClientIDs(p *access.Policy, user string, ids texts) {
	if p.ClientIDs == nil {
		p.ClientIDs = make(map[string][]string)
	}
	l.topics = l.whoever()
	delete(l.topics, "client_id")
	p.ClientIDs[user] = []string{}
	for _, t := range ids.V {
		if id := l.filled(t.at, t.V); id != "" {
			p.ClientIDs[user] = append(p.ClientIDs[user], id)
		} else if t.V == "" {
			l.errorAt(t.at, `an empty client id belongs to nobody; write "*" for any`)
		}
	}
	if len(ids.V) == 0 {
		l.errorAt(ids.at, `without any client id %q could not connect; leave client_ids out, or write which: ["panel-*"]`, user)
	}
}

// checkUsers finds users that nobody can be.
func (l *loader) checkUsers(p *access.Policy, raw *rawBroker) {
	certificates := raw.at.child("client_ca") != nil
	for _, e := range raw.User.V {
		switch {
		case e.key == access.Anonymous && !p.Anonymous:
			l.warnKey(e.at, "these are rights of clients that give no name, and such are not let in; anonymous = true in [broker] lets them in")
		case e.key == access.Anonymous, e.key == access.Everybody, certificates:
		case !raw.hasUsers():
			l.warnKey(e.at, `nobody can be %q, for there are no passwords: write passwords = "passwd" in [broker], and run gateway passwd %s`, e.key, e.key)
		case p.Passwords != nil && !p.Passwords.Has(e.key):
			l.warnKey(e.at, "%q has no password, so that nobody can be %[1]q; gateway passwd %[1]s sets one%s", e.key, didYouMean(nearest(e.key, p.Passwords.Users())))
		}
	}
}

// readPasswords returns nil if there are none or they are of no use, which is
// reported. What it reports shows nothing of a line but the user.
func (l *loader) readPasswords(t text) *access.Passwords {
	data, path, ok := l.readBeside(t, "gateway passwd NAME makes it")
	if !ok {
		return nil
	}
	l.checkPasswordsMode(t, path)
	p, faults := access.ParsePasswords(path, data)
	l.reportFaults(t, blanked(data), faults)
	return p
}

func (l *loader) checkPasswordsMode(t text, path string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
	case info.Mode().Perm()&0o022 != 0:
		l.errorAt(t.at, "others may write %s, and with it become any user: chmod 640 %[1]s", path)
	case info.Mode().Perm()&0o004 != 0:
		l.errorAt(t.at, "everyone on this machine may read %s, and guess passwords by it: chmod 640 %[1]s", path)
	}
}

// readACL returns the rules of an ACL file, nil if there is none.
func (l *loader) readACL(t text) access.Rules {
	data, path, ok := l.readBeside(t, "make it, or take acl_file out")
	if !ok {
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o002 != 0 {
		l.errorAt(t.at, "everyone on this machine may change %s, and with it their own rights: chmod o-w %[1]s", path)
	}
	rules, faults := access.ParseACL(path, data)
	l.reportFaults(t, string(data), faults)
	return rules
}

// readBeside reads a file that the configuration names; ok is false if it
// names none or it cannot be read, which is reported.
func (l *loader) readBeside(t text, remedy string) (data []byte, path string, ok bool) {
	if !t.set() {
		return nil, "", false
	}
	path = l.secrets.abs(t.V)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		l.errorAt(t.at, "there is no file %s; %s", path, remedy)
		return nil, "", false
	}
	data, err := l.secrets.read(l.binder, t.at, path)
	return data, path, err == nil
}

// reportFaults reports what is wrong in a file; shown is what its lines may
// be shown as.
func (l *loader) reportFaults(t text, shown string, faults []*access.Fault) {
	if len(faults) == 0 {
		return
	}
	src := &source{name: cmp.Or(strings.TrimPrefix(faults[0].File, l.dir+"/"), t.V), order: l.files, data: shown}
	l.files++
	var starts []int
	at := 0
	for line := range strings.Lines(shown) {
		starts = append(starts, at)
		at += len(line)
	}
	starts = append(starts, at)
	for _, f := range faults {
		from := starts[min(f.Line-1, len(starts)-1)] + f.Column - 1
		l.add(Error, src, span{from, from + f.Width}, "%s", f.What)
	}
}

// blanked is a password file with nothing but its users.
func blanked(data []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		text := strings.TrimRight(line, "\r\n")
		user, _, found := strings.Cut(text, ":")
		switch {
		case found:
			b.WriteString(user + ":" + hidden)
		case text != "":
			b.WriteString(hidden)
		}
		b.WriteString("\n")
	}
	return b.String()
}
