package com.example.catalogue;

import org.springframework.http.HttpStatus;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;

@RestController
@RequestMapping("/live-data")
class LiveDataController {

    private final LiveData liveData;

    LiveDataController(LiveData liveData) {
        this.liveData = liveData;
    }

    @GetMapping("/checksum")
    LiveData.Verification checksum() {
        return liveData.verify();
    }

    @PostMapping("/churn")
    LiveData.Verification churn(@RequestParam int mb) {
        if (mb < 1 || mb > 65536) {
            throw new ResponseStatusException(HttpStatus.BAD_REQUEST, "mb must be from 1 to 65536");
        }
        return liveData.churn(mb);
    }
}
