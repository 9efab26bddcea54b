package access

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// cheap is a hash that tests can afford by the thousand.
func cheap(password string) hash {
	h := hash{iterations: 2, salt: []byte("123456789012")}
	h.sum, _ = h.digest([]byte(password))
	return h
}

func passwordsOf(pairs ...string) *Passwords {
	var file string
	for i := 0; i < len(pairs); i += 2 {
		file += pairs[i] + ":" + cheap(pairs[i+1]).String() + "\n"
	}
	p, faults := ParsePasswords("passwd", []byte(file))
	if faults != nil {
		panic(faults[0])
	}
	return p
}

func TestHashRoundTrip(t *testing.T) {
	h, err := newHash([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	back, err := parseHash(h.String())
	if err != nil || back.String() != h.String() || !strings.HasPrefix(h.String(), fmt.Sprintf("$7$%d$", Iterations)) {
		t.Errorf("%v, %s", err, h)
	}
	for password, want := range map[string]bool{"correct horse": true, "correct horse ": false, "": false} {
		if back.verify([]byte(password)) != want {
			t.Errorf("%q", password)
		}
	}
	if other, _ := newHash([]byte("correct horse")); other.String() == h.String() {
		t.Error("no salt")
	}
	old := hash{salt: []byte("salt")}
	old.sum, _ = old.digest([]byte("x"))
	if back, err = parseHash(old.String()); err != nil || !back.verify([]byte("x")) || back.verify([]byte("y")) {
		t.Errorf("$6$: %v", err)
	}
}

func TestFaultsOfAPasswordFile(t *testing.T) {
	good := cheap("x").String()
	file := strings.Join([]string{
		"# users", "", "panel:" + good, " spaced : " + good + "\r", "  plain : secret", "argon:$argon2id$v=19$m=47104,t=1,p=1$c2FsdA$aGFzaA",
		"bcrypt:$2b$12$abcdefghijklmnopqrstuv", "lonely-secret", "panel:" + good, ":" + good, "anonymous:" + good, "*:" + good,
		"short:$7$101$c2FsdA==$c2FsdA==", "count:$7$0$c2FsdA==$c2FsdA==", "none:", "other:$1$x", "it's:x",
	}, "\n")
	_, faults := ParsePasswords("my passwd", []byte(file))
	var got strings.Builder
	for _, f := range faults {
		fmt.Fprintln(&got, f)
	}
	want := `my passwd:5:3: the password of "plain" stands there for all to read; set it again: gateway passwd --file 'my passwd' plain
my passwd:6:1: the password of "argon" is hashed with argon2, which this broker does not check; set it again: gateway passwd --file 'my passwd' argon
my passwd:7:1: the password of "bcrypt" is hashed with bcrypt, which this broker does not check; set it again: gateway passwd --file 'my passwd' bcrypt
my passwd:8:1: this line is no USER:HASH; take it out, or begin it with # for a comment
my passwd:9:1: user "panel" is in line 3, too; take one of them out
my passwd:10:1: the user name "" is empty
my passwd:11:1: the user name "anonymous" means others here: anonymous is who gives no name, * is everybody
my passwd:12:1: the user name "*" means others here: anonymous is who gives no name, * is everybody
my passwd:13:1: the password of "short" is damaged; set it again: gateway passwd --file 'my passwd' short
my passwd:14:1: the password of "count" has no count of iterations between 1 and 10000000; set it again: gateway passwd --file 'my passwd' count
my passwd:15:1: the password of "none" is missing; set it again: gateway passwd --file 'my passwd' none
my passwd:16:1: the password of "other" is hashed in a way that this broker does not check; set it again: gateway passwd --file 'my passwd' other
my passwd:17:1: the password of "it's" stands there for all to read; set it again: gateway passwd --file 'my passwd' 'it'\''s'
`
	if got.String() != want {
		t.Errorf("got:\n%s", got.String())
	}
	if strings.Contains(got.String(), "secret") {
		t.Error("a password is shown")
	}
}

func TestEditingKeepsTheRest(t *testing.T) {
	file := "# panels\npanel:" + cheap("x").String() + "\n\n# others\nbob:plain"
	edited, err := SetPassword([]byte(file), "bob", []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	if head, _, _ := strings.Cut(file, "bob:"); !bytes.HasPrefix(edited, []byte(head+"bob:$7$")) {
		t.Errorf("%s", edited)
	}
	edited, err = SetPassword(edited, "new one", []byte("pw"))
	if err != nil {
		t.Fatal(err)
	}
	p, faults := ParsePasswords("f", edited)
	if faults != nil || fmt.Sprint(p.Users()) != "[bob new one panel]" || !p.users["bob"].verify([]byte("new")) || !p.users["new one"].verify([]byte("pw")) {
		t.Errorf("%v, %v", faults, p)
	}
	edited, ok := DeleteUser(edited, "panel")
	if _, again := DeleteUser(edited, "panel"); !ok || again || !bytes.HasPrefix(edited, []byte("# panels\n\n# others\nbob:")) {
		t.Errorf("%v %v %s", ok, again, edited)
	}
}

func FuzzPasswords(f *testing.F) {
	f.Add([]byte("alice:"+cheap("x").String()+"\n# x\nbob:$6$c2FsdA==$\n"), "bob")
	f.Add([]byte("a:b:c\n:\n\r\n#"), "a")
	f.Fuzz(func(t *testing.T, data []byte, user string) {
		p, faults := ParsePasswords("f", data)
		if (p == nil) != (faults != nil) {
			t.Fatal("neither passwords nor faults, or both")
		}
		for _, name := range p.Users() {
			if again, err := parseHash(p.users[name].String()); err != nil || again.String() != p.users[name].String() {
				t.Errorf("%q is not written as it is read: %v", name, err)
			}
		}
		if WrongUser(user) != "" {
			return
		}
		line := user + ":" + cheap("x").String()
		set, _ := edit(data, user, line)
		if q, _ := ParsePasswords("f", set); p != nil && (q == nil || !q.Has(user)) {
			t.Errorf("%q is not there after it was set", user)
		}
		gone, found := DeleteUser(set, user)
		if q, _ := ParsePasswords("f", gone); !found || q.Has(user) || p != nil && q == nil {
			t.Errorf("%q is there after it was deleted, or others are not", user)
		}
	})
}

func BenchmarkLogin(b *testing.B) {
	h, err := newHash([]byte("correct horse"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		h.verify([]byte("battery staple"))
	}
}
