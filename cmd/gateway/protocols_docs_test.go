package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestProtocolsPageNamesWhatThereIs looks for each file and each name of
// docs/protocols.md.
func TestProtocolsPageNamesWhatThereIs(t *testing.T) {
	text, err := os.ReadFile("../../docs/protocols.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := make(map[string]bool)
	for _, dir := range []string{"../../devices", "../../internal/config", "../../mapping", "."} {
		if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					declared[n.Name.Name] = true
				case *ast.TypeSpec:
					declared[n.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range n.Names {
						declared[name.Name] = true
					}
				case *ast.Field:
					for _, name := range n.Names {
						declared[name.Name] = true
					}
				}
				return true
			})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	files, names := 0, 0
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(string(text), -1) {
		word := m[1]
		switch {
		case strings.HasPrefix(word, "gateway "), word == "vedirect", word == "toml", word == "testing/synctest", word == "net.Pipe":
		case strings.Contains(word, "/"):
			files++
			if _, err := os.Stat("../../" + word); err != nil {
				t.Errorf("there is no %s", word)
			}
		case word == "devices", word == "mapping":
		default:
			names++
			for part := range strings.SplitSeq(strings.TrimPrefix(word, "devices."), ".") {
				if !declared[part] {
					t.Errorf("nothing is called %s", word)
				}
			}
		}
	}
	if files < 20 || names < 35 {
		t.Errorf("only %d files and %d names", files, names)
	}
}
