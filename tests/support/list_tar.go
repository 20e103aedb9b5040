// Lists tars as Go's archive/tar reads them. Input: tars, each after its length in 32 bits. Output: a line of JSON for
// each tar.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
)

type member struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

func list(data []byte) (members []member, refused bool) {
	members = []member{}
	reader := tar.NewReader(bytes.NewReader(data))
	for {
		header, err := reader.Next()
		if err != nil {
			return members, err != io.EOF
		}
		if header.Typeflag != tar.TypeXGlobalHeader {
			members = append(members, member{header.Name, string(header.Typeflag)})
		}
	}
}

func main() {
	in, out := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	var size uint32
	for binary.Read(in, binary.LittleEndian, &size) == nil {
		data := make([]byte, size)
		if _, err := io.ReadFull(in, data); err != nil {
			panic(err)
		}
		members, refused := list(data)
		if err := out.Encode(map[string]any{"members": members, "refused": refused}); err != nil {
			panic(err)
		}
	}
}
