package homeassistant

import (
	"fmt"
	"hash/fnv"
	"strings"
	"unicode"
)

// plainLetters are what letters become that ids cannot hold.
var plainLetters = strings.NewReplacer("ç", "c", "ğ", "g", "ı", "i", "ö", "o", "ş", "s", "ü", "u", "ä", "a", "ß", "ss", "é", "e", "è", "e", "ê", "e",
	"á", "a", "à", "a", "â", "a", "å", "a", "ã", "a", "í", "i", "î", "i", "ï", "i", "ó", "o", "ô", "o", "õ", "o", "ø", "o", "æ", "ae", "ú", "u", "û", "u", "ù", "u", "ñ", "n",
	"ą", "a", "ć", "c", "ę", "e", "ł", "l", "ń", "n", "ś", "s", "ź", "z", "ż", "z", "č", "c", "ď", "d", "ě", "e", "ř", "r", "š", "s", "ť", "t", "ů", "u", "ž", "z",
	"i̇", "i", "°", "deg", "³", "3", "²", "2")

// slug returns s in small letters, digits and single underscores.
func slug(s string) string {
	s = plainLetters.Replace(strings.ToLower(s))
	return strings.Join(strings.FieldsFunc(s, notWord), "_")
}

// id returns keys as one id of letters, digits, - and _. Whatever is lost is in
// a hash at its end, so that different keys have different ids.
func id(keys ...string) string {
	var parts []string
	exact := true
	for _, key := range keys {
		part := strings.Map(func(r rune) rune {
			if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-') {
				return r
			}
			return '_'
		}, plainLetters.Replace(key))
		exact = exact && strings.ReplaceAll(key, "_", "") == strings.ReplaceAll(part, "_", "")
		parts = append(parts, part)
	}
	whole := strings.Join(parts, "_")
	if !exact {
		h := fnv.New32a()
		h.Write([]byte(strings.Join(keys, "\x00")))
		whole += fmt.Sprintf("_%08x", h.Sum32())
	}
	return whole
}

// title is what people read: "voltage_l1" becomes "Voltage L1".
func title(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return notWord(r) && r != '_' }) {
		return name
	}
	words := strings.Fields(strings.ReplaceAll(name, "_", " "))
	for i, w := range words {
		switch {
		case len(w) <= 2 && strings.ContainsAny(w, "0123456789"), w == "pf", w == "rh", w == "co2":
			words[i] = strings.ToUpper(w)
		case i == 0:
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, " ")
}
